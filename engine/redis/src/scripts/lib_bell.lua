-- Wake-ups. One that is lost costs a waiter at most a second.

-- Work: told only when somebody has looked in vain since the last time it was told.
local function ring_work()
  if redis.call('DEL', P .. 'q/idle') == 1 then
    redis.call('PUBLISH', P .. 'bell', 'w')
  end
end

-- Records: told only while somebody watches.
local function ring_records()
  if redis.call('EXISTS', P .. 't/watched') == 1 then
    redis.call('PUBLISH', P .. 'bell', 'r')
  end
end
