-- Removes a value. ARGV: now, bucket, key, when ('' always, 'absent', or the version it must have). Answers the version
-- it had, 0 if the condition does not hold, or -1 if there was none.
local key, when = P .. 'k/' .. ARGV[2] .. '/' .. ARGV[3], ARGV[4]
local it = redis.call('HMGET', key, 'v', 'e')
if not it[1] or (it[2] ~= '' and tonumber(it[2]) <= now) then
  return -1
end
if when ~= '' and it[1] ~= when then
  return 0
end
redis.call('DEL', key)
return it[1]
