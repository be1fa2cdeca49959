-- Some names that something serves, in order. ARGV: now, the name after which to begin or '', about how many bytes at
-- most. Answers the revision, then for each name the name, what serves it as JSON, that release as JSON, the canary's or
-- ''. What somebody else wrote there is handed on, or is '', for the reader to see that it cannot be read.
local M = P .. 'm/'
local from = ARGV[2] == '' and '-' or '(' .. ARGV[2]
local answer = { redis.call('GET', M .. 'revision') or '0' }
local left = tonumber(ARGV[3])
for _, name in ipairs(redis.call('ZRANGEBYLEX', M .. 'serving', from, '+', 'LIMIT', 0, 500)) do
  local key = M .. 'name/' .. name
  local function field(field)
    local value = redis.pcall('HGET', key, field)
    return type(value) == 'string' and value or ''
  end
  local function of(served)
    local version = type(served) == 'table' and served.version
    return type(version) == 'number' and field('r' .. version) or ''
  end
  local serves = field('serves')
  local is_json, versions = pcall(cjson.decode, serves)
  local release = is_json and of(versions) or ''
  local canary = release ~= '' and of(versions.canary) or ''
  answer[#answer + 1] = name
  answer[#answer + 1] = serves
  answer[#answer + 1] = release
  answer[#answer + 1] = canary
  left = left - #release - #canary
  if left <= 0 then
    break
  end
end
return answer
