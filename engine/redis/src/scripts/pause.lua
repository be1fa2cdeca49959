-- Pauses or resumes a queue. ARGV: now, queue, the pause as JSON or '', its reason. A pause for the same reason keeps the
-- time of its beginning. Answers 1 if that changed anything.
local queue, pause, reason = ARGV[2], ARGV[3], ARGV[4]
local old = redis.call('HGET', P .. 'q/queues', queue)
if pause == '' then
  if not old or old == '' then
    return 0
  end
  redis.call('HSET', P .. 'q/queues', queue, '')
  redis.call('DEL', P .. 'q/idle')
  redis.call('PUBLISH', P .. 'bell', 'w')
  return 1
end
if old and old ~= '' and (cjson.decode(old).reason or '') == reason then
  return 0
end
redis.call('HSET', P .. 'q/queues', queue, pause)
return 1
