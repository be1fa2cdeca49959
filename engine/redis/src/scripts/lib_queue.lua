-- Deliveries and their places. A delivery is a hash `q/task/<id>`; its place is one of the sorted sets of its queue:
-- `q/ready/<queue>/<name>` by priority and order, `q/delayed/<queue>` and `q/leased/<queue>` by time.

-- Phases, as kept in the field `ph`.
local READY, DELAYED, LEASED, DEAD = '0', '1', '2', '3'

-- Room for the order of enqueueing below each priority; ten priorities then stay exact in a double.
local STEP = 562949953421312 -- 2^49

-- Rows of one kind that one step makes ready; more wait for the next.
local PROMOTED = 1000

-- Envelopes up to so many bytes need not be counted: as many as one request takes are few bytes together.
local SMALL = 4096

local function task_key(id)
  return P .. 'q/task/' .. id
end

-- Changes to sorted sets, gathered so that each set is written once.
local adds, removes, names, any_ready = {}, {}, {}, false

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

local function add_ready(queue, name, priority, seq, id)
  add(P .. 'q/ready/' .. queue .. '/' .. name, (9 - priority) * STEP + seq, id)
  local of = names[queue]
  if not of then
    of = {}
    names[queue] = of
  end
  of[name] = true
  any_ready = true
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
  adds, removes, names = {}, {}, {}
end

-- Ends delays and takes back leases that ran out, each of which is a loss. Answers whether anything was done.
local function promote(queue, here)
  local delayed, leased = P .. 'q/delayed/' .. queue, P .. 'q/leased/' .. queue
  local due = redis.call('ZRANGEBYSCORE', delayed, '-inf', now, 'LIMIT', 0, PROMOTED)
  for _, id in ipairs(due) do
    local d = redis.call('HMGET', task_key(id), 'n', 'p', 's')
    if d[1] then
      redis.call('HSET', task_key(id), 'ph', READY)
      add_ready(queue, d[1], tonumber(d[2]), tonumber(d[3]), id)
    end
    remove(delayed, id)
  end
  local lost = redis.call('ZRANGEBYSCORE', leased, '-inf', now, 'LIMIT', 0, PROMOTED)
  for _, id in ipairs(lost) do
    local d = redis.call('HMGET', task_key(id), 'n', 'p', 's', 'l', 'k')
    if d[1] then
      redis.call('HSET', task_key(id), 'ph', READY, 'l', tonumber(d[4]) + 1)
      add_ready(queue, d[1], tonumber(d[2]), tonumber(d[3]), id)
      if here then
        lose_record(id, tonumber(d[5]))
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

-- What a receipt holds, or nil: the fields of its delivery that every move needs.
local function held(id, token, owner)
  local d = redis.call('HMGET', task_key(id), 'ph', 'k', 'o', 'q', 'u')
  if d[1] == LEASED and tonumber(d[2]) == token and d[3] == owner then
    return d
  end
  return nil
end

-- Puts a delivery that is held back to its place, as if it had not been made.
local function put_back(id, queue)
  local d = redis.call('HMGET', task_key(id), 'n', 'p', 's', 'd')
  redis.call('HSET', task_key(id), 'ph', READY, 'at', text[now], 'd', text[tonumber(d[4]) - 1])
  add_ready(queue, d[1], tonumber(d[2]), tonumber(d[3]), id)
end

-- Gives the unique key up, unless another task has it.
local function free_unique(key, id)
  if key and redis.call('HGET', P .. 'q/unique', key) == id then
    redis.call('HDEL', P .. 'q/unique', key)
  end
end

-- Takes a delivery away with all that hangs on it.
local function drop(id, unique)
  redis.call('DEL', task_key(id), P .. 'q/wire/' .. id, P .. 'q/failed/' .. id)
  free_unique(unique, id)
end

-- Moves a delivery, whose place the caller has removed, to the dead letters.
local function bury(id, unique, reason, failure)
  redis.call('HSET', task_key(id), 'ph', DEAD, 'x', reason, 'f', failure, 'at', now)
  redis.call('ZADD', P .. 'q/dead', now, id)
  free_unique(unique, id)
end
