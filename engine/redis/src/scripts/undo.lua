-- Takes a revocation back; its trace stays for those who follow. ARGV: now, namespace, task, how long the trace is kept.
-- Answers the version, or -1 if there was none in force.
local V, task = P .. 'v/' .. ARGV[2] .. '/', ARGV[3]
local known = redis.call('HGET', V .. 'task', task)
local change = known and redis.call('ZRANGEBYSCORE', V .. 'order', known, known)[1]
if not change or not string.find(change, '^%[%d+,%d+,{') then
  return -1
end
local ends = tonumber(redis.call('ZSCORE', V .. 'ends', task)) or math.huge
if ends <= now then
  return -1
end
local version = math.max(tonumber(redis.call('GET', V .. 'version') or 0) + 1, now * 1000)
revocation(V, task, version, 'null')
redis.call('ZADD', V .. 'ends', now + ARGV[4], task)
redis.call('SET', V .. 'version', string.format('%.0f', version))
redis.call('PUBLISH', P .. 'bell', 'v')
return version
