-- Removes what is not leased. ARGV: now, records, queue, how many at most. Answers whether more may fall due, and whom.
-- One script, because nothing may be leased between the look and the removal.
local here, queue, most = ARGV[2] == '1', ARGV[3], tonumber(ARGV[4])
local is_more_due = promote(queue, here)
local purged = {}
local function take(key, row)
  local ids = redis.call('ZRANGE', key, 0, most - #purged - 1)
  for _, id in ipairs(ids) do
    local d = redis.call('HMGET', task_key(id), 'u', 't')
    drop(id, d[1])
    if row then
      remove_ready(queue, row, key, id, d[2])
    else
      remove(key, id)
    end
    if here then
      local state = state_of(id)
      if state and not MAY[state]['final'] then
        remove_record(id)
      end
    end
    purged[#purged + 1] = id
  end
end
for _, row in ipairs(redis.call('SMEMBERS', P .. 'q/names/' .. queue)) do
  if #purged < most then
    take(P .. 'q/ready/' .. queue .. '/' .. row, row)
  end
end
if #purged < most then
  take(P .. 'q/delayed/' .. queue)
end
flush()
return { is_more_due and 1 or 0, purged }
