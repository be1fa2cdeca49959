-- Changes after a version, in order. ARGV: now, namespace, after, how many at most. Answers task, change, task, ...
-- One script, because a change between the two reads would be answered out of order, and hide what lies before it.
local V = P .. 'v/' .. ARGV[2] .. '/'
local tasks = redis.call('ZRANGEBYSCORE', V .. 'order', '(' .. ARGV[3], '+inf', 'LIMIT', 0, ARGV[4])
local answer = {}
for from = 1, #tasks, 4000 do
  local to = math.min(from + 3999, #tasks)
  for n, change in ipairs(redis.call('HMGET', V .. 'task', unpack(tasks, from, to))) do
    answer[#answer + 1] = tasks[from + n - 1]
    answer[#answer + 1] = change
  end
end
return answer
