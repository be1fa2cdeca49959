-- Puts dead letters back. ARGV: now, records, then task and token of each. Answers 1 for each that is queued, 0 for one that is
-- not dead, or of another token: what was replayed and has died anew is not what was asked for.
-- The token goes on from where it was, so whoever holds an old one stays refused. A unique key that another task has
-- taken meanwhile is left to it.
local here = ARGV[2] == '1'
local answers = {}
for n = 3, #ARGV, 2 do
  local id = ARGV[n]
  local d = redis.call('HMGET', task_key(id), 'h', 'q', 'n', 'p', 's', 'u', 't')
  local h = d[1] or older(id)
  local phase, token = parts(h or '')
  if phase == DEAD and token == ARGV[n + 1] then
    answers[#answers + 1] = 1
    redis.call('HSET', task_key(id), 'h', hold(READY, token, text[now], '0', '0', '0'))
    redis.call('HDEL', task_key(id), 'x', 'f')
    if d[6] and redis.call('HSETNX', P .. 'q/unique', d[6], id) == 0 then
      redis.call('HDEL', task_key(id), 'u')
    end
    remove(P .. 'q/dead', id)
    add_ready(d[2], d[3], tonumber(d[4]), tonumber(d[5]), id, d[7])
    if here then
      replay_record(id, token)
    end
  else
    answers[#answers + 1] = 0
  end
end
flush()
ring_work()
return answers
