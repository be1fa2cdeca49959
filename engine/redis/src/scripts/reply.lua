-- Appends a reply, one for each worker. ARGV: now, namespace, request, worker, the reply, how long replies are kept after
-- their command has expired.
local name = ARGV[2] .. '/' .. ARGV[3]
local replies = P .. 'a/' .. name
local place = redis.call('HLEN', replies) + 1
if redis.call('HSETNX', replies, ARGV[4], place .. ' ' .. ARGV[5]) == 1 then
  if place == 1 then
    local expires = now
    local sent = redis.call('HGET', P .. 'c/' .. ARGV[2] .. '/sent', ARGV[3])
    if sent then
      local entry = redis.call('XRANGE', P .. 'c/' .. ARGV[2] .. '/log', sent, sent)[1]
      expires = entry and tonumber(entry[2][2]) or now
    end
    local kept = math.max(expires, now) + ARGV[6]
    redis.call('ZADD', P .. 'a/kept', kept, name)
    -- Also without anybody who prunes, nothing stays behind.
    redis.call('PEXPIRE', replies, kept - now + 60000)
  end
  redis.call('PUBLISH', P .. 'bell', 'c')
end
return place
