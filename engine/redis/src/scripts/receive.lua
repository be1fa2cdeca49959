-- Leases deliveries, those of each queue by priority and order. ARGV and answer: see lib_receive.
for q = first_queue, last_queue do
  local queue = ARGV[q]
  if missing > 0 and is_open(queue) then
    local rows = {}
    for _, row in ipairs(redis.call('SMEMBERS', P .. 'q/names/' .. queue)) do
      if wanted[row] then
        rows[#rows + 1] = row
      end
    end
    -- Places are numbers of seventeen digits, which are dear to write and to read; those of one row are in order without.
    local found, several = {}, #rows > 1
    for _, row in ipairs(rows) do
      local key = P .. 'q/ready/' .. queue .. '/' .. row
      local first
      if several then
        first = redis.call('ZRANGE', key, 0, missing - 1, 'WITHSCORES')
        for f = 1, #first, 2 do
          found[#found + 1] = { id = first[f], place = tonumber(first[f + 1]), row = row, key = key }
        end
      else
        first = redis.call('ZRANGE', key, 0, missing - 1)
        for f = 1, #first do
          found[f] = { id = first[f], row = row, key = key }
        end
      end
      if #first == 0 then
        redis.call('SREM', P .. 'q/names/' .. queue, row)
      end
    end
    if several then
      table.sort(found, function(a, b) return a.place < b.place end)
    end
    for f = 1, math.min(missing, #found) do
      if not take(queue, found[f].row, found[f].key, found[f].id) then
        break
      end
    end
    missing = math.max(0, missing - #found)
  end
end
return end_receiving()
