-- Whole changes lie in the order of their versions, so that all of them are read by going through one structure, without a
-- search for each; the hash says under which version a task's is found. A trace of what was taken back has null as its request.

local function revocation(V, task, version, request)
  local number = string.format('%.0f', version)
  local before = redis.call('HGET', V .. 'task', task)
  if before then
    redis.call('ZREMRANGEBYSCORE', V .. 'order', before, before)
  end
  redis.call('HSET', V .. 'task', task, number)
  local change = string.format('[%s,%.0f,%s,', number, now, request) .. cjson.encode(task) .. ']'
  redis.call('ZADD', V .. 'order', number, change)
end
