-- Extends leases in place. ARGV: now, then for each: id, token, owner, for how long. Answers until when, or -1.
-- One script, because whoever is not the holder any more must not extend.
keep_clock()
local answers = {}
for i = 2, #ARGV, 4 do
  local id = ARGV[i]
  local d = held(id, tonumber(ARGV[i + 1]), ARGV[i + 2])
  local at = -1
  if d then
    at = math.max(tonumber(redis.call('HGET', task_key(id), 'at')), now + tonumber(ARGV[i + 3]))
    redis.call('HSET', task_key(id), 'at', at)
    redis.call('ZADD', P .. 'q/leased/' .. d[4], at, id)
  end
  answers[#answers + 1] = at
end
return answers
