-- What happens to a task's record. Mirrors what a settlement means in the other backends; all are held to one suite.
-- MAY[from][to] holds the legal moves; it is written in front of this text from the table in the core.

local function record_key(id)
  return P .. 't/task/' .. id
end

-- Records whose result is larger are not told; whoever watches reads them.
local TOLD = 2048

-- Tells whoever watches a record what it is now: its task, a count by which what was read and what was told can be put
-- in order, and its fields, each behind its length; without these, to look. `final`: nothing else will be told.
-- A telling is a hint: that it fails, for instance for want of a right, must not stop a move half way.
local function tell(id, final)
  local key, watch = record_key(id), P .. 't/watch/' .. id
  local watchers = redis.call('HGETALL', watch)
  local said
  for w = 1, #watchers, 2 do
    if final or watchers[w + 1] == 'any' then
      if not said then
        said = { id, ' ', 0, ' ' }
        if redis.call('EXISTS', key) == 1 then
          said[3] = redis.call('HINCRBY', key, 'wt', 1)
          if redis.call('HSTRLEN', key, 'rs') <= TOLD then
            for _, text in ipairs(redis.call('HGETALL', key)) do
              said[#said + 1] = #text
              said[#said + 1] = ':'
              said[#said + 1] = text
            end
          end
        end
        said = table.concat(said)
      end
      if redis.pcall('PUBLISH', P .. 'tell/' .. watchers[w], said) == 0 then
        -- It has gone. One that comes back asks again.
        redis.call('HDEL', watch, watchers[w])
      end
    end
  end
  if final then
    redis.call('DEL', watch)
  end
end

-- A new record, unless the task is known. `parent` and `root` are '' where no task has enqueued it.
local function queue_record(id, queue, name, max_retries, enqueued_at, not_before, parent, root)
  local key = record_key(id)
  if redis.call('EXISTS', key) == 1 then
    return
  end
  if not_before ~= '' then
    redis.call('HSET', key, 'q', queue, 'n', name, 'st', 'queued', 'a', '0', 'mr', max_retries, 'dc', '0', 'k', '0',
      'eq', enqueued_at, 'nb', not_before)
  else
    redis.call('HSET', key, 'q', queue, 'n', name, 'st', 'queued', 'a', '0', 'mr', max_retries, 'dc', '0', 'k', '0',
      'eq', enqueued_at)
  end
  if parent ~= '' then
    redis.call('HSET', key, 'pa', parent, 'ro', root)
  end
  -- In the order of recording: by the millisecond, and by a count within it.
  local count = redis.call('INCR', P .. 't/count')
  redis.call('ZADD', P .. 't/all', text[now * 1024 + count % 1024], id)
end

local function runs(r, token, owner)
  return r[1] == 'running' and tonumber(r[2]) == token and r[3] == owner
end

-- An attempt begins under a token newer than any known. True when it is on record, also when it was before.
local function begin_record(id, token, owner, attempt, deliveries, at, worker)
  local key = record_key(id)
  local r = redis.call('HMGET', key, 'st', 'k', 'o', 'wt')
  if not r[1] then
    return false
  end
  if runs(r, token, owner) then
    return true
  end
  if token <= tonumber(r[2]) or not MAY[r[1]]['running'] then
    return false
  end
  redis.call('HSET', key, 'st', 'running', 'k', text[token], 'o', owner, 'a', attempt, 'dc', deliveries, 'sa', at,
    'w', worker)
  if token > 1 then
    redis.call('HDEL', key, 'pr', 'f')
  end
  if r[4] then
    tell(id, false)
  end
  return true
end

-- Ends an attempt on record. ARGV[i] and on are: the target state or '' for none, when, the attempt that ended, 1 if
-- none of the task's code ran, the failed attempt for the history or '', how many arguments follow, field, value, ...
-- Answers whether it is stored, and the place behind the last argument.
local function settle_record(id, token, owner, i)
  local target, at, attempt, before_start, failed = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), ARGV[i + 3], ARGV[i + 4]
  local count = tonumber(ARGV[i + 5])
  local after = i + 6 + count
  local key = record_key(id)
  local r = redis.call('HMGET', key, 'st', 'k', 'o', 'sk', 'dc', 'c', 'wt')
  local state, known = r[1], tonumber(r[2])
  if not state or token < known or (token == known and r[3] ~= owner) then
    return false, after
  end
  if target == '' then
    return true, after
  end
  if tonumber(r[4] or -1) == token then
    return state == target, after
  end
  if target == 'queued' and (state == 'queued' or state == 'retrying') then
    -- The attempt was never recorded as begun, so there is nothing to take back.
    return true, after
  end
  -- Of what is final only a replay makes something else.
  if not MAY[state][target] or MAY[state]['final'] then
    return false, after
  end
  local begun = token == known
  local set = { 'st', target, 'sk', text[token], unpack(ARGV, i + 6, after - 1) }
  if not begun then
    set[#set + 1] = 'k'
    set[#set + 1] = text[token]
    set[#set + 1] = 'o'
    set[#set + 1] = owner
  end
  local final = MAY[target]['final']
  if final then
    set[#set + 1] = 'fa'
    set[#set + 1] = at
  end
  if begun and (target == 'queued' or before_start == '1') then
    set[#set + 1] = 'a'
    set[#set + 1] = math.max(0, attempt - 1)
    redis.call('HDEL', key, 'sa')
  end
  if begun and target == 'queued' then
    set[#set + 1] = 'dc'
    set[#set + 1] = math.max(0, tonumber(r[5]) - 1)
    redis.call('HDEL', key, 'pr')
  end
  redis.call('HSET', key, unpack(set))
  if final and r[6] then
    redis.call('DEL', P .. 't/checkpoint/' .. id)
    redis.call('HDEL', key, 'c')
  end
  if failed ~= '' then
    local history = P .. 't/failed/' .. id
    redis.call('RPUSH', history, failed)
    redis.call('LTRIM', history, -HISTORY, -1)
  end
  if r[7] then
    tell(id, final)
  end
  return true, after
end

-- The delivery went back as if it had not been made; `attempt` is the one before it.
local function release_record(id, token, owner, attempt)
  local key = record_key(id)
  local r = redis.call('HMGET', key, 'st', 'k', 'o', 'dc', 'wt')
  if runs(r, token, owner) then
    redis.call('HSET', key, 'st', 'queued', 'sk', token, 'a', attempt, 'dc', math.max(0, tonumber(r[4]) - 1))
    redis.call('HDEL', key, 'sa', 'pr')
    if r[5] then
      tell(id, false)
    end
  end
end

-- A lease ran out: what ran under this token waits again.
local function lose_record(id, token)
  local key = record_key(id)
  local r = redis.call('HMGET', key, 'st', 'k', 'wt')
  if r[1] == 'running' and tonumber(r[2]) == token then
    redis.call('HSET', key, 'st', 'queued')
    if r[3] then
      tell(id, false)
    end
  end
end

-- The broker gave a task up without an attempt. `uncounted` is 1 when the delivery that found it unreadable had begun one.
local function fail_record(id, failure, uncounted)
  local key = record_key(id)
  local r = redis.call('HMGET', key, 'st', 'dc', 'c', 'wt')
  if not r[1] or not MAY[r[1]]['failed'] then
    return
  end
  redis.call('HSET', key, 'st', 'failed', 'f', failure, 'fa', now)
  if uncounted then
    redis.call('HSET', key, 'a', 0, 'dc', math.max(0, tonumber(r[2]) - 1))
    redis.call('HDEL', key, 'sa', 'w')
  end
  if r[3] then
    redis.call('DEL', P .. 't/checkpoint/' .. id)
    redis.call('HDEL', key, 'c')
  end
  if r[4] then
    tell(id, true)
  end
end

-- Back from the dead letters, with nothing used up.
local function replay_record(id)
  local key = record_key(id)
  if redis.call('HGET', key, 'st') == 'failed' then
    redis.call('HSET', key, 'st', 'queued', 'a', 0, 'dc', 0)
    redis.call('HDEL', key, 'nb', 'sa', 'fa', 'pr', 'f')
    -- Who waited for its end was told of that; whoever waits again has said so since.
  end
end

local function remove_record(id)
  local watched = redis.call('HGET', record_key(id), 'wt')
  redis.call('DEL', record_key(id), P .. 't/failed/' .. id, P .. 't/checkpoint/' .. id)
  redis.call('ZREM', P .. 't/all', id)
  if watched then
    tell(id, true)
  end
end
