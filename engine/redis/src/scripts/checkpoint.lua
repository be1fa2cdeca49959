-- Keeps a checkpoint of a running attempt. ARGV: now, id, token, owner, state. Answers 1 if it is stored.
local id = ARGV[2]
local r = redis.call('HMGET', record_key(id), 'r', 'o')
local state, known = said_of(r[1] or older_record(record_key(id)))
if not runs(state, known, r[2], ARGV[3], ARGV[4]) then
  return 0
end
redis.call('SET', P .. 't/checkpoint/' .. id, ARGV[5])
redis.call('HSET', record_key(id), 'c', 1)
return 1
