-- Keeps a checkpoint of a running attempt. ARGV: now, id, token, owner, state. Answers 1 if it is stored.
local id = ARGV[2]
if not runs(redis.call('HMGET', record_key(id), 'st', 'k', 'o'), tonumber(ARGV[3]), ARGV[4]) then
  return 0
end
redis.call('SET', P .. 't/checkpoint/' .. id, ARGV[5])
redis.call('HSET', record_key(id), 'c', 1)
return 1
