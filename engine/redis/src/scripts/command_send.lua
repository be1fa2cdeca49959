-- Appends a command to its namespace's log, once. ARGV: now, namespace, request, expires at, the command. Answers its
-- place in the log.
local C = P .. 'c/' .. ARGV[2] .. '/'
local sent = redis.call('HGET', C .. 'sent', ARGV[3])
if sent then
  return sent
end
-- What has expired at the head of the log goes with the next command, so that the log stays short by itself; and what
-- lacks its time, which was not written here.
for _, entry in ipairs(redis.call('XRANGE', C .. 'log', '-', '+', 'COUNT', 10)) do
  local expires = tonumber(entry[2][2])
  if expires and expires > now then
    break
  end
  redis.call('XDEL', C .. 'log', entry[1])
  redis.call('HDEL', C .. 'sent', entry[2][4] or '')
end
local id = redis.call('XADD', C .. 'log', '*', 'e', ARGV[4], 'r', ARGV[3], 'c', ARGV[5])
redis.call('HSET', C .. 'sent', ARGV[3], id)
redis.call('SADD', P .. 'c/spaces', ARGV[2])
redis.call('PUBLISH', P .. 'bell', 'c')
return id
