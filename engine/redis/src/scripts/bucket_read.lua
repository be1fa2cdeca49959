-- A value. ARGV: now, bucket, key. Answers its version and its bytes, or nothing.
local it = redis.call('HMGET', P .. 'k/' .. ARGV[2] .. '/' .. ARGV[3], 'v', 'e', 'b')
if not it[1] or (it[2] ~= '' and tonumber(it[2]) <= now) then
  return {}
end
return { it[1], it[3] }
