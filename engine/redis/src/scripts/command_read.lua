-- Commands after a place in the log that have not expired. ARGV: now, namespace, after, how many at most. Answers place,
-- command, place, command, ... Reading leaves no trace: each reader keeps its own place. An entry that lacks its time or
-- its command was not written here; it is handed on, for the reader to count.
local read = redis.call('XREAD', 'COUNT', ARGV[4], 'STREAMS', P .. 'c/' .. ARGV[2] .. '/log', ARGV[3])
local answer = {}
for _, entry in ipairs(read and read[1] and read[1][2] or {}) do
  local expires = tonumber(entry[2][2])
  if not expires or expires > now then
    answer[#answer + 1] = entry[1]
    answer[#answer + 1] = entry[2][6] or ''
  end
end
return answer
