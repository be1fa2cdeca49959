-- Dead letters by task. ARGV: now, then tasks. Answers as dead_list.lua does, without its first element.
local answer = {}
for n = 2, #ARGV do
  local id = ARGV[n]
  local d = redis.call('HMGET', task_key(id), 'q', 'n', 'x', 'f', 's', 'h')
  local phase, token, at, deliveries = parts(d[6] or older(id) or '')
  if phase == DEAD then
    answer[#answer + 1] = { id, d[1], d[2], d[3], d[4], tonumber(deliveries), tonumber(token), tonumber(at), tonumber(d[5]),
      redis.call('GET', WIRE .. id) or '', redis.call('LRANGE', P .. 'q/failed/' .. id, 0, -1) }
  end
end
return answer
