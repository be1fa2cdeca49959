-- Leasing, as the first part of a script. ARGV: now, records, how many, for how long, owner, worker, ticket, 1 to be woken
-- later, count of tickets, count of queues, count of names, tickets whose answer has come, queues, names, and what else the
-- script takes. Answers the time, when something falls due (-1: nothing), and for each delivery: id, queue, its field
-- `h`, the wire form, and on whose account it is if tenants take turns.
-- One script, because a delivery is in one place at any moment, and its record says what the broker says.
local here, missing, lease = ARGV[2] == '1', tonumber(ARGV[3]), tonumber(ARGV[4])
local owner, worker, ticket, waits = ARGV[5], ARGV[6], ARGV[7], ARGV[8] == '1'
local first_queue = 12 + ARGV[9]
local last_queue = first_queue + ARGV[10] - 1
local last_name = last_queue + ARGV[11]

if first_queue > 12 then
  local come = {}
  for t = 12, first_queue - 1 do
    come[#come + 1] = P .. 'q/got/' .. ARGV[t]
  end
  redis.call('DEL', unpack(come))
end

-- The caller has given this request up already: it must not hold anything.
if redis.call('EXISTS', P .. 'q/void/' .. ticket) == 1 then
  return { now, -1 }
end

-- Queues that nobody asks for are looked after too, now and then: their lost leases are on record.
local swept = tonumber(redis.call('GET', P .. 'q/swept') or 0)
if now >= swept + 100 or now < swept then
  redis.call('SET', P .. 'q/swept', now)
  keep_clock()
  for _, queue in ipairs(redis.call('HKEYS', P .. 'q/queues')) do
    promote(queue, here)
  end
else
  for q = first_queue, last_queue do
    promote(ARGV[q], here)
  end
end

-- Rows of names that are asked for.
local wanted = {}
for n = last_queue + 1, last_name do
  wanted[ARGV[n]] = true
  wanted[ARGV[n] .. '/'] = true
end

-- A connection that hears wake-ups is cut when more than 32 MiB wait in it, so an answer stays far below that. The rest is
-- for the next request.
local room = 4194304

local answer, taken, wires, until_ = { now, -1 }, {}, {}, now + lease

local looked_into = {}

-- Whether a queue gives anything: it is not paused, and comes for the first time, since what is taken leaves it only at the
-- end of the script.
local function is_open(queue)
  if looked_into[queue] then
    return false
  end
  looked_into[queue] = true
  return (redis.call('HGET', P .. 'q/queues', queue) or '') == ''
end

-- Leases a delivery of a row, which is this key; with a tenant, on whose account it is, the answer says so. False if it does
-- not fit into the answer.
local function take(queue, row, key, id, tenant)
  local task = task_key(id)
  local d = redis.call('HMGET', task, 'h', 'z', 't')
  room = room - (d[2] or 0)
  if room < 0 and #taken > 0 then
    missing = 0
    return false
  end
  local _, token, _, deliveries, retries, losses = parts(d[1] or older(id))
  token, deliveries = text[number[token] + 1], text[number[deliveries] + 1]
  if not d[1] then
    redis.call('HDEL', task, 'ph', 'k', 'at', 'd', 'r', 'l')
  end
  local h = hold(LEASED, token, text[until_], deliveries, retries, losses)
  redis.call('HSET', task, 'h', h, 'o', owner)
  remove_ready(queue, row, key, id, d[3])
  add(P .. 'q/leased/' .. queue, until_, id)
  taken[#taken + 1] = token .. ' ' .. id
  wires[#wires + 1] = WIRE .. id
  answer[#answer + 1] = { id, queue, h, '', tenant }
  if here then
    begin_record(id, token, owner, text[number[retries] + 1], deliveries, text[now], worker)
  end
  return true
end

-- Writes what was taken, and completes the answer.
local function end_receiving()
  if #taken > 0 then
    flush()
    for n, wire in ipairs(redis.call('MGET', unpack(wires))) do
      answer[n + 2][4] = wire or ''
    end
    -- For the case that this answer is lost.
    local got = P .. 'q/got/' .. ticket
    redis.call('SADD', got, unpack(taken))
    redis.call('PEXPIRE', got, lease + 60000)
  elseif waits then
    redis.call('SET', P .. 'q/idle', 1)
    for q = first_queue, last_queue do
      for _, kind in ipairs({ 'q/delayed/', 'q/leased/' }) do
        local first = redis.call('ZRANGE', P .. kind .. ARGV[q], 0, 0, 'WITHSCORES')
        local at = tonumber(first[2])
        if at and (answer[2] == -1 or at < answer[2]) then
          answer[2] = at
        end
      end
    end
  end
  return answer
end
