-- Replaces this incarnation's heartbeat, unless another has the name by now. ARGV as in register.lua.
local key = P .. 'w/' .. ARGV[2]
local known = redis.call('HGET', key, ARGV[3])
if known and string.match(known, '^%d+ (%S+) ') ~= ARGV[4] then
  return 0
end
redis.call('HSET', key, ARGV[3], string.format('%.0f %s %s %s %s', now, ARGV[4], ARGV[5], ARGV[6], ARGV[7]))
return 1
