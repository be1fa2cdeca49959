-- The end of a namespace's log. ARGV: now, namespace. Answers the place of the newest command there ever was, or ''.
local log = P .. 'c/' .. ARGV[2] .. '/log'
if redis.call('EXISTS', log) == 0 then
  return ''
end
local info = redis.call('XINFO', 'STREAM', log)
for n = 1, #info, 2 do
  if info[n] == 'last-generated-id' then
    return info[n + 1]
  end
end
return ''
