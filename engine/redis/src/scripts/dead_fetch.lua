-- Dead letters by task. ARGV: now, then tasks. Answers as dead_list.lua does, without its first element.
local answer = {}
for n = 2, #ARGV do
  local id = ARGV[n]
  local d = redis.call('HMGET', task_key(id), 'q', 'n', 'x', 'f', 'd', 'at', 's', 'ph')
  if d[8] == DEAD then
    answer[#answer + 1] = { id, d[1], d[2], d[3], d[4], tonumber(d[5]), tonumber(d[6]), tonumber(d[7]),
      redis.call('GET', P .. 'q/wire/' .. id) or '', redis.call('LRANGE', P .. 'q/failed/' .. id, 0, -1) }
  end
end
return answer
