-- Writes a value. ARGV: now, bucket, key, when ('' always, 'absent', or the version it must have), for how long in
-- milliseconds or '', the bytes. Answers its version, or 0 if the condition does not hold.
-- Versions are those of the whole store, so that a key needs no trace of its old ones.
local key, when, ttl = P .. 'k/' .. ARGV[2] .. '/' .. ARGV[3], ARGV[4], ARGV[5]
local it = redis.call('HMGET', key, 'v', 'e')
local there = it[1] and (it[2] == '' or tonumber(it[2]) > now)
if when == 'absent' then
  if there then return 0 end
elseif when ~= '' and (not there or it[1] ~= when) then
  return 0
end
local version = math.max(tonumber(redis.call('GET', P .. 'k/version') or 0) + 1, now * 1000)
version = string.format('%.0f', version)
redis.call('SET', P .. 'k/version', version)
local ends = ttl ~= '' and string.format('%.0f', now + ttl) or ''
-- With the time that it had.
redis.call('DEL', key)
redis.call('HSET', key, 'v', version, 'e', ends, 'b', ARGV[6])
if ttl ~= '' then
  redis.call('PEXPIRE', key, ttl)
end
return version
