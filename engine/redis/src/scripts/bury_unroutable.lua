-- Gives up deliveries of one name that have been ready since before a time. ARGV: now, records, queue, name, since, how
-- many to look at in each row, the failure. Answers how many. Of a long row only the first are looked at; the next call
-- sees more.
local here, queue, name, since = ARGV[2] == '1', ARGV[3], ARGV[4], tonumber(ARGV[5])
local count = 0
for _, row in ipairs({ name, name .. '/' }) do
  local key = P .. 'q/ready/' .. queue .. '/' .. row
  for _, id in ipairs(redis.call('ZRANGE', key, 0, tonumber(ARGV[6]) - 1)) do
    local d = redis.call('HMGET', task_key(id), 'h', 'u', 't')
    local h = d[1] or older(id)
    local _, _, at = parts(h)
    if tonumber(at) < since then
      remove_ready(queue, row, key, id, d[3])
      bury(id, h, d[2], 'unroutable', ARGV[7])
      if here then
        fail_record(id, ARGV[7], false)
      end
      count = count + 1
    end
  end
end
flush()
return count
