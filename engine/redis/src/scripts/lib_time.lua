-- Part of every script. KEYS[1] is the prefix of every key, in braces, so that Redis Cluster keeps all of them in one
-- slot. ARGV[1] is the time in milliseconds, or -1 for the server's own clock.
local P = KEYS[1]
local now = tonumber(ARGV[1])
if now < 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end

-- Whole numbers as text, each made once. The server itself writes a number that a script hands to it with seventeen
-- digits of a fraction, which costs as much as many a command. (A server of 32 bits has no room for `%d`.)
local wide = string.format('%d', 2 ^ 52) == '4503599627370496'
local text = setmetatable({}, {
  __index = function(known, number)
    local written = string.format(wide and '%d' or '%.0f', number)
    known[number] = written
    return written
  end
})

-- The other way round, for the few that come again and again.
local number = setmetatable({}, {
  __index = function(known, written)
    local read = tonumber(written)
    known[written] = read
    return read
  end
})
