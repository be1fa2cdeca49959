-- Commands after a place in the log that have not expired. ARGV: now, namespace, after, how many at most. Answers place,
-- command, place, command, ... Reading leaves no trace: each reader keeps its own place.
local read = redis.call('XREAD', 'COUNT', ARGV[4], 'STREAMS', P .. 'c/' .. ARGV[2] .. '/log', ARGV[3])
local answer = {}
for _, entry in ipairs(read and read[1] and read[1][2] or {}) do
  if tonumber(entry[2][2]) > now then
    answer[#answer + 1] = entry[1]
    answer[#answer + 1] = entry[2][6]
  end
end
return answer
