-- Storing envelopes, each with its place and its record.

-- What was stored: keys and wire forms in turn, and the queues.
local wires, queues = {}, {}

-- Stores an envelope, or answers which task is in the way. ARGV[i] and on are: id, queue, name, priority, not before or '',
-- unique key or '', the wire form, allowed retries, enqueued at, parent or '', root or '', tenant or ''.
local function publish(i, seq, here)
  local id, queue, name = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local not_before, unique, tenant = ARGV[i + 4], ARGV[i + 5], ARGV[i + 11] ~= '' and ARGV[i + 11]
  local known
  if here then
    known = redis.call('EXISTS', task_key(id), record_key(id)) > 0
  else
    known = redis.call('EXISTS', task_key(id)) == 1
  end
  local holder = known and id or (unique ~= '' and redis.call('HGET', P .. 'q/unique', unique))
  if holder then
    return holder
  end
  local delayed = not_before ~= '' and tonumber(not_before) > now
  local h = hold(delayed and DELAYED or READY, '0', delayed and not_before or text[now], '0', '0', '0')
  redis.call('HSET', task_key(id), 'h', h, 'q', queue, 'n', name, 'p', ARGV[i + 3], 's', text[seq])
  if #ARGV[i + 6] > SMALL then
    redis.call('HSET', task_key(id), 'z', #ARGV[i + 6])
  end
  if tenant then
    redis.call('HSET', task_key(id), 't', tenant)
  end
  if unique ~= '' then
    redis.call('HSET', task_key(id), 'u', unique)
    redis.call('HSET', P .. 'q/unique', unique, id)
  end
  wires[#wires + 1] = WIRE .. id
  wires[#wires + 1] = ARGV[i + 6]
  if delayed then
    add(P .. 'q/delayed/' .. queue, tonumber(not_before), id)
  else
    add_ready(queue, name, tonumber(ARGV[i + 3]), seq, id, tenant)
  end
  queues[queue] = true
  if here then
    queue_record(id, queue, name, ARGV[i + 7], ARGV[i + 8], not_before, ARGV[i + 9], ARGV[i + 10])
  end
  return nil
end

-- Writes what was gathered, and tells whoever waits for work.
local function end_publishing()
  if #wires == 0 then
    return
  end
  for from = 1, #wires, 4000 do
    redis.call('MSET', unpack(wires, from, math.min(from + 3999, #wires)))
  end
  for queue in pairs(queues) do
    redis.call('HSETNX', P .. 'q/queues', queue, '')
  end
  flush()
  -- A delay may end before a waiter would look again.
  ring_work()
end
