-- Part of every script. KEYS[1] is the prefix of every key, in braces, so that Redis Cluster keeps all of them in one
-- slot. ARGV[1] is the time in milliseconds, or -1 for the server's own clock.
local P = KEYS[1]
local now = tonumber(ARGV[1])
if now < 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end
