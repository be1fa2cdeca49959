-- Removes final records that ended before a time. ARGV: now, before, offset, count to look at. A record cannot have ended
-- before it was made, so only older ones are looked at. Answers how many were looked at, and how many are gone.
local looked = redis.call('ZRANGEBYSCORE', P .. 't/all', '-inf', (ARGV[2] + 1) * 1024, 'LIMIT', ARGV[3], ARGV[4])
local gone = 0
for _, id in ipairs(looked) do
  local key = record_key(id)
  local state, _, _, finished = said_of(redis.call('HGET', key, 'r') or older_record(key))
  if not state or (finished ~= '-' and tonumber(finished) < tonumber(ARGV[2])) then
    remove_record(id)
    gone = gone + 1
  end
end
return { #looked, gone }
