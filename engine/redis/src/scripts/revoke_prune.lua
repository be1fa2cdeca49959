-- Removes revocations and traces whose time is over. ARGV: now, namespace, how many at most. Answers how many.
local V = P .. 'v/' .. ARGV[2] .. '/'
local over = redis.call('ZRANGEBYSCORE', V .. 'ends', '-inf', now, 'LIMIT', 0, ARGV[3])
if #over > 0 then
  redis.call('HDEL', V .. 'task', unpack(over))
  redis.call('ZREM', V .. 'order', unpack(over))
  redis.call('ZREM', V .. 'ends', unpack(over))
end
return #over
