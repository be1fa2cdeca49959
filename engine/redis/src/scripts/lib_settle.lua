-- Ends deliveries, as the first part of a script. ARGV: now, records, count, then for each: id, token, owner, the move and
-- its arguments, and with records what settle_record reads. Moves: gone; release; dead (reason, failure, failed attempt);
-- retry (not before, '', failed attempt); bury, for bytes that are no envelope (reason, failure, bytes to keep). Afterwards `answers` has 1 for each that happened, 0 for a stale one, and `i` is the place behind.
-- One script, because a delivery must not be gone while its result is not there, nor the other way round.
local here, count = ARGV[2] == '1', tonumber(ARGV[3])
local answers, gone, i, woken = {}, {}, 4, false
local seen = {}

local function remember(id, failed)
  redis.call('RPUSH', P .. 'q/failed/' .. id, failed)
  redis.call('LTRIM', P .. 'q/failed/' .. id, -HISTORY, -1)
end

for n = 1, count do
  local id, token, owner, move = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local one, two, three
  i = i + 4
  if move ~= 'gone' and move ~= 'release' then
    one, two, three = ARGV[i], ARGV[i + 1], ARGV[i + 2]
    i = i + 3
  end
  local h, queue, unique
  if not seen[id] then
    h, queue, unique = held(id, token, owner)
  end
  if not h then
    answers[n] = 0
    if here then
      i = i + 6 + tonumber(ARGV[i + 5])
    end
  else
    answers[n] = 1
    seen[id] = true
    remove(P .. 'q/leased/' .. queue, id)
    if move == 'gone' then
      gone[#gone + 1] = task_key(id)
      gone[#gone + 1] = WIRE .. id
      if token ~= '1' then
        gone[#gone + 1] = P .. 'q/failed/' .. id
      end
      free_unique(unique, id)
    elseif move == 'dead' then
      remember(id, three)
      bury(id, h, unique, one, two)
    elseif move == 'bury' then
      local wire = WIRE .. id
      if redis.call('STRLEN', wire) > tonumber(three) then
        redis.call('SET', wire, redis.call('GETRANGE', wire, 0, tonumber(three) - 1))
      end
      bury(id, h, unique, one, two, true)
    elseif move == 'retry' then
      remember(id, three)
      local _, _, _, deliveries, retries, losses = parts(h)
      redis.call('HSET', task_key(id), 'h', hold(DELAYED, token, one, deliveries, text[retries + 1], losses))
      add(P .. 'q/delayed/' .. queue, tonumber(one), id)
      woken = true
    else
      put_back(id, h, queue)
      woken = true
    end
    if here then
      if move == 'bury' then
        fail_record(id, two, true)
        i = i + 6 + tonumber(ARGV[i + 5])
      else
        local _
        _, i = settle_record(id, token, owner, i)
      end
    end
  end
end
for from = 1, #gone, 4000 do
  redis.call('DEL', unpack(gone, from, math.min(from + 3999, #gone)))
end
flush()
if woken then
  ring_work()
end
