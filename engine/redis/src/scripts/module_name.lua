-- One task name. ARGV: now, name. Answers now, the mark of its last change, its last version, what serves it as JSON or
-- '', and its releases as JSON in any order.
local answer = { now, '0', '0', '' }
local places = { mark = 2, last = 3, serves = 4 }
local fields = redis.call('HGETALL', P .. 'm/name/' .. ARGV[2])
for i = 1, #fields, 2 do
  answer[places[fields[i]] or #answer + 1] = fields[i + 1]
end
return answer
