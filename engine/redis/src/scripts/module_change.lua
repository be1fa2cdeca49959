-- Changes a task name, if nobody has since it was read. ARGV: now, name, the mark that was read, a digest whose bytes must
-- be there or '', the last version, what serves it as JSON or '', how long bytes without a release are kept, how many
-- releases are new, for each version, digest and JSON; then for each that goes version and digest. Answers 1, 0 if the
-- bytes are missing, or -1 if somebody was faster.
-- One step, so that what serves, its releases and the bytes that they name are of one moment.
local M, name = P .. 'm/', ARGV[2]
local key = M .. 'name/' .. name
if (redis.call('HGET', key, 'mark') or '0') ~= ARGV[3] then
  return -1
end
if ARGV[4] ~= '' and redis.call('EXISTS', M .. 'bytes/' .. ARGV[4]) == 0 then
  return 0
end
local function forget(bytes)
  local put = redis.call('HGET', M .. 'bytes/' .. bytes, 'put')
  if put then
    redis.call('DEL', M .. 'bytes/' .. bytes, M .. 'put/' .. put)
  end
end
local i = 9
for _ = 1, tonumber(ARGV[8]) do
  redis.call('HSET', key, 'r' .. ARGV[i], ARGV[i + 2])
  redis.call('HINCRBY', M .. 'named', ARGV[i + 1], 1)
  redis.call('ZREM', M .. 'loose', ARGV[i + 1])
  i = i + 3
end
while i <= #ARGV do
  local digest = ARGV[i + 1]
  redis.call('HDEL', key, 'r' .. ARGV[i])
  if redis.call('HINCRBY', M .. 'named', digest, -1) <= 0 then
    redis.call('HDEL', M .. 'named', digest)
    forget(digest)
  end
  i = i + 2
end
for _, digest in ipairs(redis.call('ZRANGEBYSCORE', M .. 'loose', '-inf', now - ARGV[7], 'LIMIT', 0, 10)) do
  forget(digest)
  redis.call('ZREM', M .. 'loose', digest)
end
for _, put in ipairs(redis.call('ZRANGEBYSCORE', M .. 'staged', '-inf', now - ARGV[7], 'LIMIT', 0, 10)) do
  redis.call('DEL', M .. 'put/' .. put)
  redis.call('ZREM', M .. 'staged', put)
end
-- Follows the time, as versions of revocations do.
local revision = math.max(tonumber(redis.call('GET', M .. 'revision') or 0) + 1, now * 1000)
revision = string.format('%.0f', revision)
redis.call('SET', M .. 'revision', revision)
redis.call('HSET', key, 'mark', revision, 'last', ARGV[5], 'serves', ARGV[6])
if ARGV[6] ~= '' then
  redis.call('ZADD', M .. 'serving', 0, name)
else
  redis.call('ZREM', M .. 'serving', name)
end
redis.call('PUBLISH', P .. 'bell', 'm')
return 1
