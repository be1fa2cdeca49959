-- Some names that something serves, in order. ARGV: now, the name after which to begin or '', about how many bytes at
-- most. Answers the revision, then for each name what serves it as JSON, that release as JSON, the canary's or ''.
local M = P .. 'm/'
local from = ARGV[2] == '' and '-' or '(' .. ARGV[2]
local answer = { redis.call('GET', M .. 'revision') or '0' }
local left = tonumber(ARGV[3])
for _, name in ipairs(redis.call('ZRANGEBYLEX', M .. 'serving', from, '+', 'LIMIT', 0, 500)) do
  local key = M .. 'name/' .. name
  local serves = redis.call('HGET', key, 'serves')
  local versions = cjson.decode(serves)
  local release = redis.call('HGET', key, 'r' .. versions.version) or ''
  local canary = ''
  if versions.canary then
    canary = redis.call('HGET', key, 'r' .. versions.canary.version) or ''
  end
  answer[#answer + 1] = serves
  answer[#answer + 1] = release
  answer[#answer + 1] = canary
  left = left - #release - #canary
  if left <= 0 then
    break
  end
end
return answer
