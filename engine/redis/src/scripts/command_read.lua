-- Commands after a place in the log that have not expired. ARGV: now, namespace, after, how many at most. Answers the place
-- after which they are, then place, command, place, command, ... Reading leaves no trace: each reader keeps its own place.
-- An entry that lacks its time or its command was not written here; it is handed on, for the reader to count.
local after = ARGV[3]
if is_beyond(after) then
  -- The server's clock was set back by days.
  after = text[day_ahead] .. '-0'
end
local read = redis.call('XREAD', 'COUNT', ARGV[4], 'STREAMS', P .. 'c/' .. ARGV[2] .. '/log', after)
local answer = { after }
for _, entry in ipairs(read and read[1] and read[1][2] or {}) do
  local expires = tonumber(entry[2][2])
  if (not expires or expires > now) and not is_beyond(entry[1]) then
    answer[#answer + 1] = entry[1]
    answer[#answer + 1] = entry[2][6] or ''
  end
end
return answer
