-- Extends leases in place. ARGV: now, then for each: id, token, owner, for how long. Answers until when, or -1.
-- One script, because whoever is not the holder any more must not extend.
keep_clock()
local answers = {}
for i = 2, #ARGV, 4 do
  local id = ARGV[i]
  local h, queue = held(id, ARGV[i + 1], ARGV[i + 2])
  local at = -1
  if h then
    local _, token, known, deliveries, retries, losses = parts(h)
    at = math.max(tonumber(known), now + tonumber(ARGV[i + 3]))
    redis.call('HSET', task_key(id), 'h', hold(LEASED, token, text[at], deliveries, retries, losses))
    redis.call('ZADD', P .. 'q/leased/' .. queue, text[at], id)
  end
  answers[#answers + 1] = at
end
return answers
