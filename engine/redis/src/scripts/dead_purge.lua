-- Removes dead letters; their records stay. ARGV: now, then tasks. Answers how many there were.
local count = 0
for n = 2, #ARGV do
  local id = ARGV[n]
  if redis.call('HGET', task_key(id), 'ph') == DEAD then
    -- Its unique key was given up when it died.
    redis.call('DEL', task_key(id), P .. 'q/wire/' .. id, P .. 'q/failed/' .. id)
    remove(P .. 'q/dead', id)
    count = count + 1
  end
end
flush()
return count
