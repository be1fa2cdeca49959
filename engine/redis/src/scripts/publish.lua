-- Stores envelopes, each with its place and, with ARGV[2] = 1, its record; or says which task is in the way.
-- ARGV: now, records, count, then for each: id, queue, name, priority, not before or '', unique key or '', the wire form,
-- allowed retries, enqueued at. Answers for each '' or the task that is there.
-- One script, because between the look for what is in the way and the writing nobody else may enqueue the same.
local here, count = ARGV[2] == '1', tonumber(ARGV[3])
local seq = redis.call('INCRBY', P .. 'q/seq', count) - count
local answers, wires, queues = {}, {}, {}
for n = 1, count do
  local i = 4 + (n - 1) * 9
  local id, queue, name = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local not_before, unique = ARGV[i + 4], ARGV[i + 5]
  local known
  if here then
    known = redis.call('EXISTS', task_key(id), record_key(id)) > 0
  else
    known = redis.call('EXISTS', task_key(id)) == 1
  end
  local holder = known and id or (unique ~= '' and redis.call('HGET', P .. 'q/unique', unique))
  if holder then
    answers[n] = holder
  else
    answers[n] = ''
    seq = seq + 1
    local delayed = not_before ~= '' and tonumber(not_before) > now
    redis.call('HSET', task_key(id), 'q', queue, 'n', name, 'p', ARGV[i + 3], 's', seq, 'k', 0, 'r', 0, 'd', 0,
      'l', 0, 'ph', delayed and DELAYED or READY, 'at', delayed and not_before or now)
    if #ARGV[i + 6] > SMALL then
      redis.call('HSET', task_key(id), 'z', #ARGV[i + 6])
    end
    if unique ~= '' then
      redis.call('HSET', task_key(id), 'u', unique)
      redis.call('HSET', P .. 'q/unique', unique, id)
    end
    wires[#wires + 1] = P .. 'q/wire/' .. id
    wires[#wires + 1] = ARGV[i + 6]
    if delayed then
      add(P .. 'q/delayed/' .. queue, tonumber(not_before), id)
    else
      add_ready(queue, name, tonumber(ARGV[i + 3]), seq, id)
    end
    queues[queue] = true
    if here then
      queue_record(id, queue, name, ARGV[i + 7], ARGV[i + 8], not_before)
    end
  end
end
if #wires > 0 then
  redis.call('MSET', unpack(wires))
  for queue in pairs(queues) do
    redis.call('HSETNX', P .. 'q/queues', queue, '')
  end
  flush()
  -- A delay may end before a waiter would look again.
  ring_work()
end
return answers
