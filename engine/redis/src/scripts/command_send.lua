-- Appends a command to its namespace's log, once. ARGV: now, namespace, request, expires at, the command. Answers its
-- place in the log.
local C = P .. 'c/' .. ARGV[2] .. '/'
local sent = redis.call('HGET', C .. 'sent', ARGV[3])
if sent then
  return sent
end
-- What has expired at the head of the log goes with the next command, so that the log stays short by itself; and what
-- lacks its time, which was not written here.
for _, entry in ipairs(redis.call('XRANGE', C .. 'log', '-', '+', 'COUNT', 10)) do
  local expires = tonumber(entry[2][2])
  if expires and expires > now then
    break
  end
  redis.call('XDEL', C .. 'log', entry[1])
  redis.call('HDEL', C .. 'sent', entry[2][4] or '')
end
-- Positions hold 20 bits of the number within a millisecond.
local NUMBERS = 1048575
local place = '*'
local last = last_place(C .. 'log')
if last ~= '' and is_beyond(last) then
  -- A log's end can be set back only by beginning anew, and never to where readers may be.
  local newest = text[day_ahead] .. '-' .. text[NUMBERS - 1]
  local kept = redis.call('XREVRANGE', C .. 'log', newest, '-', 'COUNT', 10000)
  redis.call('DEL', C .. 'log')
  for n = #kept, 1, -1 do
    local at, fields = kept[n][1], kept[n][2]
    if #fields == 6 then
      redis.call('XADD', C .. 'log', at, 'e', fields[2], 'r', fields[4], 'c', fields[6])
    end
  end
  -- Within a day, so that who reads in this millisecond finds it; readers from too far ahead begin at number 0.
  local is_taken = kept[1] and time_of(kept[1][1]) == day_ahead
  place = text[day_ahead] .. '-' .. text[(is_taken and number_of(kept[1][1]) or 0) + 1]
elseif last ~= '' and time_of(last) >= here and number_of(last) >= NUMBERS then
  place = text[time_of(last) + 1] .. '-0'
end
local id = redis.call('XADD', C .. 'log', place, 'e', ARGV[4], 'r', ARGV[3], 'c', ARGV[5])
redis.call('HSET', C .. 'sent', ARGV[3], id)
redis.call('SADD', P .. 'c/spaces', ARGV[2])
redis.call('PUBLISH', P .. 'bell', 'c')
return id
