-- Commands after a place in the log that have not expired. ARGV: now, namespace, after, how many at most. Answers the place
-- after which they are, then place, command, place, command, ... Reading leaves no trace: each reader keeps its own place.
-- An entry that lacks its time or its command was not written here; it is handed on, for the reader to count.
local after = ARGV[3]
if is_beyond(after) then
  -- The server's clock was set back by days.
  after = text[day_ahead] .. '-0'
end
local answer, from, page = { after }, after, tonumber(ARGV[4])
-- A page on which everything has expired must not hide what lies behind it. What is behind so many is removed with time.
for _ = 1, 20 do
  local read = redis.call('XREAD', 'COUNT', page, 'STREAMS', P .. 'c/' .. ARGV[2] .. '/log', from)
  local entries = read and read[1] and read[1][2] or {}
  for _, entry in ipairs(entries) do
    local expires = tonumber(entry[2][2])
    if (not expires or expires > now) and not is_beyond(entry[1]) then
      answer[#answer + 1] = entry[1]
      answer[#answer + 1] = entry[2][6] or ''
    end
  end
  if #answer > 1 or #entries < page then
    break
  end
  from = entries[#entries][1]
end
return answer
