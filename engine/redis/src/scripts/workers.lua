-- Every heartbeat of a namespace. ARGV: now, namespace. Answers now, then the heartbeats as they are kept.
local answer = { now }
for _, kept in ipairs(redis.call('HVALS', P .. 'w/' .. ARGV[2])) do
  answer[#answer + 1] = kept
end
return answer
