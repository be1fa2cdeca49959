-- Reads a record for somebody who will wait for its changes. ARGV: now, task, who is to be told, 'any' or 'final', for how
-- long. Answers the count of what was told before, and the fields.
-- One script, because a change between the reading and the asking would not be told.
local key, watch = record_key(ARGV[2]), P .. 't/watch/' .. ARGV[2]
local state = state_of(ARGV[2])
if not state then
  return { 0, {} }
end
if not MAY[state]['final'] then
  local known = redis.call('HGET', watch, ARGV[3])
  -- Somebody else of that process may want more; what is asked for again is not written again and again.
  if not known or (known == 'final' and ARGV[4] == 'any') then
    redis.call('HSET', watch, ARGV[3], ARGV[4])
    redis.call('HSETNX', key, 'wt', 0)
  end
  if redis.call('PTTL', watch) < ARGV[5] / 2 then
    redis.call('PEXPIRE', watch, ARGV[5])
  end
end
return { tonumber(redis.call('HGET', key, 'wt') or 0), redis.call('HGETALL', key) }
