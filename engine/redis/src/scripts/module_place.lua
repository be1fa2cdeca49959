-- Makes the pieces of one storing a module's bytes. ARGV: now, digest, the storing's id, how many pieces. Answers 1, or 0
-- if some are gone.
-- One step, so that whoever reads finds all pieces of one storing or none.
local M, digest, put = P .. 'm/', ARGV[2], ARGV[3]
if redis.call('HLEN', M .. 'put/' .. put) ~= tonumber(ARGV[4]) then
  return 0
end
local old = redis.call('HGET', M .. 'bytes/' .. digest, 'put')
if old and old ~= put then
  redis.call('DEL', M .. 'put/' .. old)
end
redis.call('HSET', M .. 'bytes/' .. digest, 'put', put, 'pieces', ARGV[4])
redis.call('ZREM', M .. 'staged', put)
if redis.call('HEXISTS', M .. 'named', digest) == 0 then
  redis.call('ZADD', M .. 'loose', now, digest)
end
return 1
