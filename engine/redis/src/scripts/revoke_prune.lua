-- Removes revocations and traces whose time is over. ARGV: now, namespace, how many at most. Answers how many.
local V = P .. 'v/' .. ARGV[2] .. '/'
local over = redis.call('ZRANGEBYSCORE', V .. 'ends', '-inf', now, 'LIMIT', 0, ARGV[3])
if #over > 0 then
  for _, version in ipairs(redis.call('HMGET', V .. 'task', unpack(over))) do
    if version then
      redis.call('ZREMRANGEBYSCORE', V .. 'order', version, version)
    end
  end
  redis.call('HDEL', V .. 'task', unpack(over))
  redis.call('ZREM', V .. 'ends', unpack(over))
end
return #over
