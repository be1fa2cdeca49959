-- Leases deliveries when tenants take turns. ARGV: see lib_receive, and then the shares as JSON and how many of a queue and
-- name are looked at. Each delivery of the answer has at its end on whose account it is.
local shares, looked_at = cjson.decode(ARGV[last_name + 1]), tonumber(ARGV[last_name + 2])

-- Deliveries that one queue's turn looks at, over all lanes, unless there are more lanes than this.
local LOOKED_AT = 8192
local UNNAMED = '-'

-- Behind whom the first turn is; `shares.from` moves with each.
local from = shares.from

-- Whether one name comes before another, by their bytes: the comparison of Lua goes by the server's locale.
local function before(one, other)
  for at = 1, math.min(#one, #other) do
    local a, b = string.byte(one, at), string.byte(other, at)
    if a ~= b then
      return a < b
    end
  end
  return #one < #other
end

local function share_of(tenant)
  local share = shares.tenants[tenant]
  if not share then
    share = { room = shares.others, held = 0 }
    shares.tenants[tenant] = share
  end
  return share
end

-- The tenants of one name that are looked at: those behind whoever had the last turn, and around. The one without a name
-- comes before all others.
local function window(queue, name, has_unnamed)
  local key = P .. 'q/lanes/' .. queue .. '/' .. name
  local found = redis.call('ZRANGEBYLEX', key, '(' .. from, '+', 'LIMIT', 0, looked_at)
  if has_unnamed and #found < looked_at then
    found[#found + 1] = UNNAMED
  end
  if #found < looked_at then
    for _, tenant in ipairs(redis.call('ZRANGEBYLEX', key, '-', '[' .. from, 'LIMIT', 0, looked_at - #found)) do
      found[#found + 1] = tenant
    end
  end
  return found
end

-- The lanes of a queue that are looked at and have room, each with its row.
local function open_lanes(queue)
  local there, lanes = {}, {}
  for _, row in ipairs(redis.call('SMEMBERS', P .. 'q/names/' .. queue)) do
    there[row] = wanted[row]
  end
  for n = last_queue + 1, last_name do
    local name = ARGV[n]
    if there[name] or there[name .. '/'] then
      for _, tenant in ipairs(window(queue, name, there[name])) do
        if share_of(tenant).room > 0 then
          local named = tenant ~= UNNAMED
          local row = named and name .. '/' or name
          local key = P .. 'q/ready/' .. queue .. '/' .. row
          local lane = named and P .. 'q/lane/' .. queue .. '/' .. row .. tenant or key
          lanes[#lanes + 1] = { tenant = tenant, lane = lane, row = row, key = key }
        end
      end
      -- Each name once, however often it is asked for.
      there[name], there[name .. '/'] = nil, nil
    end
  end
  return lanes
end

-- Whoever has something in these lanes, in the order of names, each with what goes first.
local function heads(queue, lanes, most)
  local depth = math.min(most, math.max(1, math.floor(LOOKED_AT / #lanes)))
  local tenants, of = {}, {}
  for _, one in ipairs(lanes) do
    local share = share_of(one.tenant)
    local first = redis.call('ZRANGE', one.lane, 0, math.min(depth, share.room) - 1, 'WITHSCORES')
    if #first == 0 and one.lane == one.key then
      redis.call('SREM', P .. 'q/names/' .. queue, one.row)
    end
    local tenant = of[one.tenant]
    if not tenant and #first > 0 then
      tenant = { name = one.tenant, share = share, gone = 0 }
      of[one.tenant] = tenant
      tenants[#tenants + 1] = tenant
    end
    for f = 1, #first, 2 do
      tenant[#tenant + 1] = { id = first[f], place = tonumber(first[f + 1]), row = one.row, key = one.key }
    end
  end
  for _, tenant in ipairs(tenants) do
    table.sort(tenant, function(a, b) return a.place < b.place end)
  end
  table.sort(tenants, function(a, b) return before(a.name, b.name) end)
  return tenants
end

-- Again and again one goes of the tenant that has the fewest, of several such the next after the one that got the last: as
-- `Shares::choose` in the core has it.
local function give_turns(queue)
  local most = math.min(missing, shares.queues[queue] or missing)
  local lanes = most > 0 and open_lanes(queue) or {}
  if #lanes == 0 then
    return
  end
  local tenants, last = heads(queue, lanes, most), 0
  for rank, tenant in ipairs(tenants) do
    if not before(shares.from, tenant.name) then
      last = rank
    end
  end
  for _ = 1, most do
    local turn, fewest
    for rank, tenant in ipairs(tenants) do
      if tenant.gone < #tenant and tenant.share.room > 0 then
        local has = tenant.share.held * 2 + (rank <= last and 1 or 0)
        if not turn or has < fewest then
          turn, fewest = rank, has
        end
      end
    end
    if not turn then
      return
    end
    local tenant = tenants[turn]
    local head = tenant[tenant.gone + 1]
    if not take(queue, head.row, head.key, head.id, tenant.name) then
      return
    end
    tenant.gone, last, shares.from = tenant.gone + 1, turn, tenant.name
    tenant.share.room, tenant.share.held = tenant.share.room - 1, tenant.share.held + 1
    missing = missing - 1
    if shares.queues[queue] then
      shares.queues[queue] = shares.queues[queue] - 1
    end
  end
end

for q = first_queue, last_queue do
  if missing > 0 and is_open(ARGV[q]) then
    give_turns(ARGV[q])
  end
end
return end_receiving()
