-- Deliveries and their places. A delivery is a hash `q/task/<id>`, of which one field, `h`, says all that moves change but
-- the owner: what a script reads and writes is paid for by the field. Its place is one of the sorted sets of its queue:
-- `q/ready/<queue>/<row>` by priority and order, `q/delayed/<queue>` and `q/leased/<queue>` by time. A row is a task name,
-- and for deliveries with a tenant the name and a slash; these are once more in a lane, `q/lane/<queue>/<name>/<tenant>`,
-- also by priority and order, and `q/lanes/<queue>/<name>` holds exactly the tenants whose lane is not empty.

-- Phases, each one character.
local READY, DELAYED, LEASED, DEAD = '0', '1', '2', '3'

-- Room for the order of enqueueing below each priority; ten priorities then stay exact in a double.
local STEP = 562949953421312 -- 2^49

-- Rows of one kind that one step makes ready; more wait for the next.
local PROMOTED = 1000

-- Envelopes up to so many bytes need not be counted: as many as one request takes are few bytes together.
local SMALL = 4096

local TASK, WIRE = P .. 'q/task/', P .. 'q/wire/'

local function task_key(id)
  return TASK .. id
end

-- The field `h`: phase, token, since or until when, deliveries, retries, losses, all of them texts.
local function hold(phase, token, at, deliveries, retries, losses)
  return phase .. ' ' .. token .. ' ' .. at .. ' ' .. deliveries .. ' ' .. retries .. ' ' .. losses
end

-- Its parts, as texts.
local function parts(h)
  return string.match(h, '^(%d) (%d+) (%-?%d+) (%d+) (%d+) (%d+)$')
end

-- The field `h` of a delivery that lacks it, or nil: one of an older build, which had a field for each part. Nothing reads them
-- once `h` is written, and who leases removes them.
local function older(id)
  local d = redis.call('HMGET', task_key(id), 'ph', 'k', 'at', 'd', 'r', 'l')
  return d[1] and hold(unpack(d)) or nil
end

-- Changes to sorted sets, gathered so that each set is written once, and lanes that something has left.
local adds, removes, names, left, any_ready = {}, {}, {}, {}, false

local function add(key, score, id)
  local list = adds[key]
  if not list then
    list = {}
    adds[key] = list
  end
  list[#list + 1] = text[score]
  list[#list + 1] = id
end

local function remove(key, id)
  local list = removes[key]
  if not list then
    list = {}
    removes[key] = list
  end
  list[#list + 1] = id
end

-- The tenant of a delivery that has none is false, as the server answers.
local function add_ready(queue, name, priority, seq, id, tenant)
  local place = (9 - priority) * STEP + seq
  if tenant then
    local lane = P .. 'q/lane/' .. queue .. '/' .. name .. '/' .. tenant
    if not adds[lane] then
      add(P .. 'q/lanes/' .. queue .. '/' .. name, 0, tenant)
    end
    add(lane, place, id)
    name = name .. '/'
  end
  add(P .. 'q/ready/' .. queue .. '/' .. name, place, id)
  local of = names[queue]
  if not of then
    of = {}
    names[queue] = of
  end
  of[name] = true
  any_ready = true
end

-- Takes a delivery out of its row, which is this key, and out of its lane.
local function remove_ready(queue, row, key, id, tenant)
  remove(key, id)
  if tenant then
    local name = string.match(row, '^[^/]+')
    local lane = P .. 'q/lane/' .. queue .. '/' .. name .. '/' .. tenant
    remove(lane, id)
    left[lane] = { P .. 'q/lanes/' .. queue .. '/' .. name, tenant }
  end
end

-- Writes what was gathered.
local function flush()
  for key, list in pairs(removes) do
    for from = 1, #list, 4000 do
      redis.call('ZREM', key, unpack(list, from, math.min(from + 3999, #list)))
    end
  end
  for key, list in pairs(adds) do
    for from = 1, #list, 4000 do
      redis.call('ZADD', key, unpack(list, from, math.min(from + 3999, #list)))
    end
  end
  for queue, of in pairs(names) do
    local list = {}
    for name in pairs(of) do
      list[#list + 1] = name
    end
    redis.call('SADD', P .. 'q/names/' .. queue, unpack(list))
  end
  for lane, of in pairs(left) do
    if redis.call('EXISTS', lane) == 0 then
      redis.call('ZREM', of[1], of[2])
    end
  end
  adds, removes, names, left = {}, {}, {}, {}
end

-- Ends delays and takes back leases that ran out, each of which is a loss. Answers whether anything was done.
local function promote(queue, here)
  local delayed, leased = P .. 'q/delayed/' .. queue, P .. 'q/leased/' .. queue
  local due = redis.call('ZRANGEBYSCORE', delayed, '-inf', now, 'LIMIT', 0, PROMOTED)
  for _, id in ipairs(due) do
    local d = redis.call('HMGET', task_key(id), 'n', 'p', 's', 't', 'h')
    if d[1] then
      redis.call('HSET', task_key(id), 'h', READY .. string.sub(d[5] or older(id), 2))
      add_ready(queue, d[1], tonumber(d[2]), tonumber(d[3]), id, d[4])
    end
    remove(delayed, id)
  end
  local lost = redis.call('ZRANGEBYSCORE', leased, '-inf', now, 'LIMIT', 0, PROMOTED)
  for _, id in ipairs(lost) do
    local d = redis.call('HMGET', task_key(id), 'n', 'p', 's', 't', 'h')
    if d[1] then
      local _, token, at, deliveries, retries, losses = parts(d[5] or older(id))
      redis.call('HSET', task_key(id), 'h', hold(READY, token, at, deliveries, retries, text[losses + 1]))
      add_ready(queue, d[1], tonumber(d[2]), tonumber(d[3]), id, d[4])
      if here then
        lose_record(id, token)
      end
    end
    remove(leased, id)
  end
  if #due + #lost == 0 then
    return false
  end
  flush()
  return true
end

-- Notes the time, now and then. A lease is told by this clock, which may be set back: then every lease that is not over ends as
-- much earlier by it, which is when it would have ended. Otherwise what a dead worker had would be nobody's for all that time.
-- Less than a second is no step.
local function keep_clock()
  local seen = tonumber(redis.call('GET', P .. 'q/clock') or 0)
  if now < seen - 1000 then
    for _, queue in ipairs(redis.call('HKEYS', P .. 'q/queues')) do
      local leased = P .. 'q/leased/' .. queue
      local held_now = redis.call('ZRANGEBYSCORE', leased, '(' .. text[now], '+inf', 'WITHSCORES')
      for n = 1, #held_now, 2 do
        local id, at = held_now[n], tonumber(held_now[n + 1]) - (seen - now)
        local h = redis.call('HGET', task_key(id), 'h') or older(id)
        if h then
          local phase, token, _, deliveries, retries, losses = parts(h)
          redis.call('HSET', task_key(id), 'h', hold(phase, token, text[at], deliveries, retries, losses))
        end
        add(leased, at, id)
      end
    end
    flush()
  elseif now < seen + 100 then
    return
  end
  redis.call('SET', P .. 'q/clock', text[now])
end

-- What a receipt holds, or nil: the field `h` of its delivery, its queue, and its unique key or false. Tokens are texts in
-- every receipt: one number has one text.
local function held(id, token, owner)
  local d = redis.call('HMGET', task_key(id), 'h', 'o', 'q', 'u')
  local h = d[1] or older(id)
  local begins = LEASED .. ' ' .. token .. ' '
  if h and d[2] == owner and string.sub(h, 1, #begins) == begins then
    return h, d[3], d[4]
  end
  return nil
end

-- Puts a delivery that is held back to its place, as if it had not been made.
local function put_back(id, h, queue)
  local d = redis.call('HMGET', task_key(id), 'n', 'p', 's', 't')
  local _, token, _, deliveries, retries, losses = parts(h)
  redis.call('HSET', task_key(id), 'h', hold(READY, token, text[now], text[deliveries - 1], retries, losses))
  add_ready(queue, d[1], tonumber(d[2]), tonumber(d[3]), id, d[4])
end

-- Gives the unique key up, unless another task has it.
local function free_unique(key, id)
  if key and redis.call('HGET', P .. 'q/unique', key) == id then
    redis.call('HDEL', P .. 'q/unique', key)
  end
end

-- Takes a delivery away with all that hangs on it.
local function drop(id, unique)
  redis.call('DEL', task_key(id), WIRE .. id, P .. 'q/failed/' .. id)
  free_unique(unique, id)
end

-- Moves a delivery, whose place the caller has removed, to the dead letters. `uncounted` if the delivery that it had is to
-- be counted as not made.
local function bury(id, h, unique, reason, failure, uncounted)
  local _, token, _, deliveries, retries, losses = parts(h)
  if uncounted then
    deliveries = text[deliveries - 1]
  end
  redis.call('HSET', task_key(id), 'h', hold(DEAD, token, text[now], deliveries, retries, losses), 'x', reason, 'f', failure)
  redis.call('ZADD', P .. 'q/dead', now, id)
  free_unique(unique, id)
end
