-- Ends deliveries, as the first part of a script. ARGV: now, records, count, then for each: id, token, owner, the move and
-- its three arguments, and with records what settle_record reads. Moves: gone; dead (reason, failure); retry (not before);
-- release; bury, for bytes that are no envelope (reason, failure, bytes to keep). The third argument of dead and retry is
-- the failed attempt. Afterwards `answers` has 1 for each that happened, 0 for a stale one, and `i` is the place behind.
-- One script, because a delivery must not be gone while its result is not there, nor the other way round.
local here, count = ARGV[2] == '1', tonumber(ARGV[3])
local answers, gone, i, woken = {}, {}, 4, false
local seen = {}

local function remember(id, failed)
  redis.call('RPUSH', P .. 'q/failed/' .. id, failed)
  redis.call('LTRIM', P .. 'q/failed/' .. id, -HISTORY, -1)
end

for n = 1, count do
  local id, token, owner = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
  local move, one, two, three = ARGV[i + 3], ARGV[i + 4], ARGV[i + 5], ARGV[i + 6]
  i = i + 7
  local d = not seen[id] and held(id, token, owner)
  if not d then
    answers[n] = 0
    if here then
      i = i + 6 + tonumber(ARGV[i + 5])
    end
  else
    answers[n] = 1
    seen[id] = true
    local leased, unique = P .. 'q/leased/' .. d[4], d[5]
    remove(leased, id)
    if move == 'gone' then
      gone[#gone + 1] = task_key(id)
      gone[#gone + 1] = P .. 'q/wire/' .. id
      if token > 1 then
        gone[#gone + 1] = P .. 'q/failed/' .. id
      end
      free_unique(unique, id)
    elseif move == 'dead' then
      remember(id, three)
      bury(id, unique, one, two)
    elseif move == 'bury' then
      redis.call('HINCRBY', task_key(id), 'd', -1)
      local wire = P .. 'q/wire/' .. id
      if redis.call('STRLEN', wire) > tonumber(three) then
        redis.call('SET', wire, redis.call('GETRANGE', wire, 0, tonumber(three) - 1))
      end
      bury(id, unique, one, two)
    elseif move == 'retry' then
      remember(id, three)
      redis.call('HSET', task_key(id), 'ph', DELAYED, 'at', one)
      redis.call('HINCRBY', task_key(id), 'r', 1)
      add(P .. 'q/delayed/' .. d[4], tonumber(one), id)
      woken = true
    else
      put_back(id, d[4])
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
