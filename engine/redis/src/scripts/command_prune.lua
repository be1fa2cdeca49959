-- Removes expired commands, what lacks its time and was not written here, and replies whose time is over. ARGV: now.
-- Answers how many.
local count = 0
-- Replies first: a worker may remove those, and need not be permitted to remove commands.
for _, replies in ipairs(redis.call('ZRANGEBYSCORE', P .. 'a/kept', '-inf', now, 'LIMIT', 0, 1000)) do
  count = count + redis.call('HLEN', P .. 'a/' .. replies)
  redis.call('DEL', P .. 'a/' .. replies)
  redis.call('ZREM', P .. 'a/kept', replies)
end
for _, space in ipairs(redis.call('SMEMBERS', P .. 'c/spaces')) do
  local C = P .. 'c/' .. space .. '/'
  for _, entry in ipairs(redis.call('XRANGE', C .. 'log', '-', '+', 'COUNT', 1000)) do
    local expires = tonumber(entry[2][2])
    if not expires or expires <= now then
      count = count + redis.call('XDEL', C .. 'log', entry[1])
      redis.call('HDEL', C .. 'sent', entry[2][4] or '')
    end
  end
end
return count
