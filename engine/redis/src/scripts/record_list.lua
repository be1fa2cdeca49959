-- One page of the records, newest first. ARGV: now, offset, count to look at, count to answer, state or '', queue or '',
-- name or ''. Answers how many were looked at, then for each that is meant: id, and its fields without the result.
local looked = redis.call('ZREVRANGE', P .. 't/all', ARGV[2], ARGV[2] + ARGV[3] - 1)
local answer, most = { #looked }, tonumber(ARGV[4])
for n, id in ipairs(looked) do
  if #answer > most then
    answer[1] = n - 1
    break
  end
  local r = redis.call('HMGET', record_key(id), 'r', 'q', 'n', 'mr', 'eq', 'nb', 'w', 'pr', 'f', 'rv', 'md', 'mv', 'us',
    'pa', 'ro')
  r[1] = r[1] or older_record(record_key(id))
  local state = said_of(r[1])
  if state and (ARGV[5] == '' or ARGV[5] == state) and (ARGV[6] == '' or ARGV[6] == r[2])
      and (ARGV[7] == '' or ARGV[7] == r[3]) then
    answer[#answer + 1] = { id, r }
  end
end
return answer
