-- Ends deliveries, and stores the children of those that it ends. ARGV: those of lib_settle, then the count of children,
-- then for each: the number of its settlement, and what publish reads. Answers 1 for each settlement that happened, 0 for
-- a stale one.
-- Not the script of settlements without children: those may be made while the memory is full, and most are such.
local children = tonumber(ARGV[i])
local order = redis.call('INCRBY', P .. 'q/seq', children) - children
for n = 1, children do
  local at = i + 1 + (n - 1) * 13
  if answers[tonumber(ARGV[at])] == 1 then
    publish(at + 1, order + n, here)
  end
end
end_publishing()
return answers
