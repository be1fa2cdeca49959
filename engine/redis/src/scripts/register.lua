-- Takes a worker's name, unless another incarnation holds it with a fresh heartbeat. ARGV: now, namespace, worker, boot
-- id, interval, 1 if it has stopped, the heartbeat. Answers '' or the boot id of the holder and when it was seen.
local key = P .. 'w/' .. ARGV[2]
local known = redis.call('HGET', key, ARGV[3])
if known then
  local seen, boot, interval, stopped = string.match(known, '^(%d+) (%S+) (%d+) (%d) ')
  if boot ~= ARGV[4] and stopped == '0' and now - seen <= interval * 3 then
    return { boot, tonumber(seen) }
  end
end
redis.call('HSET', key, ARGV[3], string.format('%.0f %s %s %s %s', now, ARGV[4], ARGV[5], ARGV[6], ARGV[7]))
return {}
