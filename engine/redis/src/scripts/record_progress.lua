-- Keeps the newest progress of running attempts. ARGV: now, then for each: id, token, owner, progress. Answers 1 for
-- each that is stored.
local answers = {}
for i = 2, #ARGV, 4 do
  local key = record_key(ARGV[i])
  local r = redis.call('HMGET', key, 'r', 'o', 'wt')
  local state, known = said_of(r[1] or older_record(key))
  local stored = runs(state, known, r[2], ARGV[i + 1], ARGV[i + 2])
  if stored then
    redis.call('HSET', key, 'pr', ARGV[i + 3])
    if r[3] then
      tell(ARGV[i], false)
    end
  end
  answers[#answers + 1] = stored and 1 or 0
end
return answers
