-- Counts every queue. ARGV: now, records. Answers for each queue: name, pause, delayed, leased, then name and count of
-- what is ready, of one name at most twice. What has fallen due is made ready first, so it counts as ready.
local here = ARGV[2] == '1'
local answers = {}
local queues = redis.call('HGETALL', P .. 'q/queues')
for n = 1, #queues, 2 do
  local queue = queues[n]
  promote(queue, here)
  local answer = {
    queue,
    queues[n + 1],
    redis.call('ZCARD', P .. 'q/delayed/' .. queue),
    redis.call('ZCARD', P .. 'q/leased/' .. queue),
  }
  for _, row in ipairs(redis.call('SMEMBERS', P .. 'q/names/' .. queue)) do
    local count = redis.call('ZCARD', P .. 'q/ready/' .. queue .. '/' .. row)
    if count > 0 then
      answer[#answer + 1] = string.match(row, '^[^/]+')
      answer[#answer + 1] = count
    else
      redis.call('SREM', P .. 'q/names/' .. queue, row)
    end
  end
  answers[#answers + 1] = answer
end
return answers
