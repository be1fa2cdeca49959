-- Stores revocations. ARGV: now, namespace, then for each: task, the request as JSON, when it ends or ''. Answers now and
-- the first version.
-- A version is drawn from the counter, which also follows the time, so that a server which lost its newest writes does
-- not give a version out again: whoever follows would miss what it numbers.
local V = P .. 'v/' .. ARGV[2] .. '/'
local version = math.max(tonumber(redis.call('GET', V .. 'version') or 0) + 1, now * 1000)
local first = version
for i = 3, #ARGV, 3 do
  local task, ends = ARGV[i], ARGV[i + 2]
  revocation(V, task, version, ARGV[i + 1])
  if ends ~= '' then
    redis.call('ZADD', V .. 'ends', ends, task)
  else
    redis.call('ZREM', V .. 'ends', task)
  end
  version = version + 1
end
redis.call('SET', V .. 'version', string.format('%.0f', version - 1))
redis.call('PUBLISH', P .. 'bell', 'v')
return { now, first }
