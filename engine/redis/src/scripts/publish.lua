-- Stores envelopes, each with its place and, with ARGV[2] = 1, its record; or says which task is in the way.
-- ARGV: now, records, count, then for each: id, queue, name, priority, not before or '', unique key or '', the wire form,
-- allowed retries, enqueued at, parent or '', root or '', tenant or ''. Answers for each '' or the task that is there.
-- One script, because between the look for what is in the way and the writing nobody else may enqueue the same.
local here, count = ARGV[2] == '1', tonumber(ARGV[3])
local seq = redis.call('INCRBY', P .. 'q/seq', count) - count
local answers = {}
for n = 1, count do
  answers[n] = publish(4 + (n - 1) * 12, seq + n, here) or ''
end
end_publishing()
return answers
