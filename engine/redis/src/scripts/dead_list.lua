-- One page of the dead letters, oldest first. ARGV: now, since or '-inf', offset, count to look at, count to answer,
-- queue or '', name or '', reason or ''. Answers how many were looked at, then for each that is meant: id, queue, name,
-- reason, failure, deliveries, token, dead at, order, the wire form, the failed attempts.
local looked = redis.call('ZRANGEBYSCORE', P .. 'q/dead', ARGV[2], '+inf', 'LIMIT', ARGV[3], ARGV[4])
local answer, most = { #looked }, tonumber(ARGV[5])
for n, id in ipairs(looked) do
  if #answer > most then
    answer[1] = n - 1
    break
  end
  local d = redis.call('HMGET', task_key(id), 'q', 'n', 'x', 'f', 's', 'h')
  if (ARGV[6] == '' or ARGV[6] == d[1]) and (ARGV[7] == '' or ARGV[7] == d[2])
      and (ARGV[8] == '' or ARGV[8] == d[3]) then
    local _, token, at, deliveries = parts(d[6] or older(id) or '')
    answer[#answer + 1] = { id, d[1], d[2], d[3], d[4], tonumber(deliveries), tonumber(token), tonumber(at), tonumber(d[5]),
      redis.call('GET', WIRE .. id) or '', redis.call('LRANGE', P .. 'q/failed/' .. id, 0, -1) }
  end
end
return answer
