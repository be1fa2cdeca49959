-- Wake-ups. One that is lost costs a waiter at most a second.

-- Work: told only when somebody has looked in vain since the last time it was told.
local function ring_work()
  if redis.call('DEL', P .. 'q/idle') == 1 then
    redis.call('PUBLISH', P .. 'bell', 'w')
  end
end
