-- Removes this incarnation's heartbeat. ARGV: now, namespace, worker, boot id.
local key = P .. 'w/' .. ARGV[2]
local known = redis.call('HGET', key, ARGV[3])
if known and string.match(known, '^%d+ (%S+) ') == ARGV[4] then
  return redis.call('HDEL', key, ARGV[3])
end
return 0
