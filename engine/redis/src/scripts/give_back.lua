-- Makes a request void whose answer never came: what it took goes back as if it had not been delivered, and if it has
-- not been executed yet it will take nothing. ARGV: now, records, ticket, owner, worker. Answers how many went back.
local here, ticket, owner = ARGV[2] == '1', ARGV[3], ARGV[4]
redis.call('SET', P .. 'q/void/' .. ticket, 1, 'PX', 600000)
local got = P .. 'q/got/' .. ticket
local count = 0
for _, one in ipairs(redis.call('SMEMBERS', got)) do
  local token, id = string.match(one, '^(%d+) (.*)$')
  local h, queue = held(id, token, owner)
  if h then
    remove(P .. 'q/leased/' .. queue, id)
    put_back(id, h, queue)
    if here then
      local _, _, _, _, retries = parts(h)
      release_record(id, token, owner, retries)
    end
    count = count + 1
  end
end
redis.call('DEL', got)
if count > 0 then
  flush()
  ring_work()
end
return count
