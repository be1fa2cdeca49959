-- What happens to a task's record. Mirrors what a settlement means in the other backends; all are held to one suite.
-- MAY[from][to] holds the legal moves; it is written in front of this text from the table in the core.

local RECORD = P .. 't/task/'

local function record_key(id)
  return RECORD .. id
end

-- What moves change of a record is one field, `r`: state, token, token of the newest settlement, finished at, attempt,
-- deliveries, started at, with `-` for what is not there. Each field that a script reads or writes is paid for.
-- Answers state, token, token of the settlement, finished at, and what follows as it stands; nothing of nil.
local function said_of(r)
  return string.match(r or '', '^(%S+) (%S+) (%S+) (%S+) (.*)$')
end

-- The attempt, the deliveries and the time of the start, of what follows.
local function counts(rest)
  return string.match(rest, '^(%S+) (%S+) (%S+)$')
end

-- The field `r` of a record that lacks it, or nil: one of an older build, which had a field for each part. Nothing reads them
-- once `r` is written, and the next attempt that begins removes them.
local function older_record(key)
  local r = redis.call('HMGET', key, 'st', 'k', 'sk', 'fa', 'a', 'dc', 'sa')
  if not r[1] then
    return nil
  end
  for n = 1, 7 do
    r[n] = r[n] or '-'
  end
  return table.concat(r, ' ')
end

-- The state of a record, or nil without one.
local function state_of(id)
  local key = record_key(id)
  return (said_of(redis.call('HGET', key, 'r') or older_record(key)))
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
    redis.call('HSET', key, 'r', 'queued 0 - - 0 0 -', 'q', queue, 'n', name, 'mr', max_retries, 'eq', enqueued_at,
      'nb', not_before)
  else
    redis.call('HSET', key, 'r', 'queued 0 - - 0 0 -', 'q', queue, 'n', name, 'mr', max_retries, 'eq', enqueued_at)
  end
  if parent ~= '' then
    redis.call('HSET', key, 'pa', parent, 'ro', root)
  end
  -- In the order of recording: by the millisecond, and by a count within it.
  local count = redis.call('INCR', P .. 't/count')
  redis.call('ZADD', P .. 't/all', text[now * 1024 + count % 1024], id)
end

-- Whether a record of this state, token and owner runs under a receipt. Tokens are texts: one number has one text.
local function runs(state, known, known_owner, token, owner)
  return state == 'running' and known == token and known_owner == owner
end

-- An attempt begins under a token newer than any known. True when it is on record, also when it was before.
local function begin_record(id, token, owner, attempt, deliveries, at, worker)
  local key = record_key(id)
  local r = redis.call('HMGET', key, 'r', 'o', 'wt')
  local state, known, settled = said_of(r[1] or older_record(key))
  if not state then
    return false
  end
  if runs(state, known, r[2], token, owner) then
    return true
  end
  if number[token] <= number[known] or not MAY[state]['running'] then
    return false
  end
  if not r[1] then
    redis.call('HDEL', key, 'st', 'k', 'sk', 'fa', 'a', 'dc', 'sa')
  end
  redis.call('HSET', key, 'r',
    'running ' .. token .. ' ' .. settled .. ' - ' .. attempt .. ' ' .. deliveries .. ' ' .. at, 'o', owner, 'w', worker)
  if token ~= '1' then
    redis.call('HDEL', key, 'pr', 'f')
  end
  if r[3] then
    tell(id, false)
  end
  return true
end

-- Ends an attempt on record. ARGV[i] and on are: the target state or '' for none, when, the attempt that ended, 1 if
-- none of the task's code ran, the failed attempt for the history or '', how many arguments follow, field, value, ...
-- Answers whether it is stored, and the place behind the last argument.
local function settle_record(id, token, owner, i)
  local target, at, attempt, before_start, failed = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local after = i + 6 + number[ARGV[i + 5]]
  local key = record_key(id)
  local r = redis.call('HMGET', key, 'r', 'o', 'c', 'wt')
  local state, known, settled, finished, rest = said_of(r[1] or older_record(key))
  if not state or (token == known and r[2] ~= owner) or (token ~= known and number[token] < number[known]) then
    return false, after
  end
  if target == '' then
    return true, after
  end
  if settled == token then
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
  local begun, final = token == known, MAY[target]['final']
  if final then
    finished = at
  end
  if begun and (target == 'queued' or before_start == '1') then
    local _, deliveries = counts(rest)
    if target == 'queued' then
      deliveries = text[math.max(0, deliveries - 1)]
      redis.call('HDEL', key, 'pr')
    end
    rest = text[math.max(0, attempt - 1)] .. ' ' .. deliveries .. ' -'
  end
  local now_said = target .. ' ' .. token .. ' ' .. token .. ' ' .. finished .. ' ' .. rest
  if begun then
    redis.call('HSET', key, 'r', now_said, unpack(ARGV, i + 6, after - 1))
  else
    redis.call('HSET', key, 'r', now_said, 'o', owner, unpack(ARGV, i + 6, after - 1))
  end
  if final and r[3] then
    redis.call('DEL', P .. 't/checkpoint/' .. id)
    redis.call('HDEL', key, 'c')
  end
  if failed ~= '' then
    local history = P .. 't/failed/' .. id
    redis.call('RPUSH', history, failed)
    redis.call('LTRIM', history, -HISTORY, -1)
  end
  if r[4] then
    tell(id, final)
  end
  return true, after
end

-- The delivery went back as if it had not been made; `attempt` is the one before it.
local function release_record(id, token, owner, attempt)
  local key = record_key(id)
  local r = redis.call('HMGET', key, 'r', 'o', 'wt')
  local state, known, _, finished, rest = said_of(r[1] or older_record(key))
  if runs(state, known, r[2], token, owner) then
    local _, deliveries = counts(rest)
    redis.call('HSET', key, 'r', 'queued ' .. known .. ' ' .. token .. ' ' .. finished .. ' ' .. attempt .. ' '
      .. text[math.max(0, deliveries - 1)] .. ' -')
    redis.call('HDEL', key, 'pr')
    if r[3] then
      tell(id, false)
    end
  end
end

-- A lease ran out: what ran under this token waits again.
local function lose_record(id, token)
  local key = record_key(id)
  local r = redis.call('HMGET', key, 'r', 'wt')
  local state, known, settled, finished, rest = said_of(r[1] or older_record(key))
  if state == 'running' and known == token then
    redis.call('HSET', key, 'r', 'queued ' .. known .. ' ' .. settled .. ' ' .. finished .. ' ' .. rest)
    if r[2] then
      tell(id, false)
    end
  end
end

-- The broker gave a task up without an attempt. `uncounted` is 1 when the delivery that found it unreadable had begun one.
local function fail_record(id, failure, uncounted)
  local key = record_key(id)
  local r = redis.call('HMGET', key, 'r', 'c', 'wt')
  local state, known, settled, _, rest = said_of(r[1] or older_record(key))
  if not state or not MAY[state]['failed'] then
    return
  end
  if uncounted then
    local _, deliveries = counts(rest)
    rest = '0 ' .. text[math.max(0, deliveries - 1)] .. ' -'
    redis.call('HDEL', key, 'w')
  end
  redis.call('HSET', key, 'r', 'failed ' .. known .. ' ' .. settled .. ' ' .. text[now] .. ' ' .. rest, 'f', failure)
  if r[2] then
    redis.call('DEL', P .. 't/checkpoint/' .. id)
    redis.call('HDEL', key, 'c')
  end
  if r[3] then
    tell(id, true)
  end
end

-- Back from the dead letters, with nothing used up; nobody with the token of its dead letter has a say any more. False when
-- the record has failed under a newer token.
local function replay_record(id, token)
  local key = record_key(id)
  local state, known, settled = said_of(redis.call('HGET', key, 'r') or older_record(key))
  if state ~= 'failed' then
    return true
  end
  if number[known] > number[token] then
    return false
  end
  redis.call('HSET', key, 'r', 'queued ' .. token .. ' ' .. settled .. ' - 0 0 -')
  redis.call('HDEL', key, 'nb', 'pr', 'f', 'o')
  -- Who waited for its end was told of that; whoever waits again has said so since.
  return true
end

local function remove_record(id)
  local watched = redis.call('HGET', record_key(id), 'wt')
  redis.call('DEL', record_key(id), P .. 't/failed/' .. id, P .. 't/checkpoint/' .. id)
  redis.call('ZREM', P .. 't/all', id)
  if watched then
    tell(id, true)
  end
end
