-- Reads a record for somebody who will wait for its changes. ARGV: now, task, who is to be told, 'any' or 'final', for how
-- long. Answers the count of what was told before, and the fields.
-- One script, because a change between the reading and the asking would not be told.
local key, watch = record_key(ARGV[2]), P .. 't/watch/' .. ARGV[2]
local state = redis.call('HGET', key, 'st')
if not state then
  return { 0, {} }
end
if not MAY[state]['final'] then
  redis.call('HSET', watch, ARGV[3], ARGV[4])
  redis.call('PEXPIRE', watch, ARGV[5])
  redis.call('HSET', key, 'wt', 1)
end
return { tonumber(redis.call('HGET', watch, 'count') or 0), redis.call('HGETALL', key) }
