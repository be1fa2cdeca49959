-- Removes dead letters; their records stay. ARGV: now, then tasks. Answers how many there were.
local count = 0
for n = 2, #ARGV do
  local id = ARGV[n]
  if parts(redis.call('HGET', task_key(id), 'h') or older(id) or '') == DEAD then
    -- Its unique key was given up when it died.
    redis.call('DEL', task_key(id), WIRE .. id, P .. 'q/failed/' .. id)
    remove(P .. 'q/dead', id)
    count = count + 1
  end
end
flush()
return count
