-- Leases deliveries, those of each queue by priority and order. ARGV and answer: see lib_receive.
for q = first_queue, last_queue do
  local queue = ARGV[q]
  if missing > 0 and is_open(queue) then
    local found = {}
    for _, row in ipairs(redis.call('SMEMBERS', P .. 'q/names/' .. queue)) do
      if wanted[row] then
        local key = P .. 'q/ready/' .. queue .. '/' .. row
        local first = redis.call('ZRANGE', key, 0, missing - 1, 'WITHSCORES')
        if #first == 0 then
          redis.call('SREM', P .. 'q/names/' .. queue, row)
        end
        for f = 1, #first, 2 do
          found[#found + 1] = { id = first[f], place = tonumber(first[f + 1]), row = row, key = key }
        end
      end
    end
    table.sort(found, function(a, b) return a.place < b.place end)
    for f = 1, math.min(missing, #found) do
      if not take(queue, found[f].row, found[f].key, found[f].id) then
        break
      end
    end
    missing = math.max(0, missing - #found)
  end
end
return end_receiving()
