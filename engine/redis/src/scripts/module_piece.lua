-- Keeps one piece of a module that is being stored. ARGV: now, the storing's id, the piece's number, the bytes. Nobody sees
-- it before all are there.
redis.call('HSET', P .. 'm/put/' .. ARGV[2], ARGV[3], ARGV[4])
redis.call('ZADD', P .. 'm/staged', now, ARGV[2])
return 1
