-- Removes final records that ended before a time. ARGV: now, before, offset, count to look at. A record cannot have ended
-- before it was made, so only older ones are looked at. Answers how many were looked at, and how many are gone.
local looked = redis.call('ZRANGEBYSCORE', P .. 't/all', '-inf', (ARGV[2] + 1) * 1024, 'LIMIT', ARGV[3], ARGV[4])
local gone = 0
for _, id in ipairs(looked) do
  local r = redis.call('HMGET', record_key(id), 'fa', 'st')
  if not r[2] or (r[1] and tonumber(r[1]) < tonumber(ARGV[2])) then
    remove_record(id)
    gone = gone + 1
  end
end
return { #looked, gone }
