-- Records how attempts ended. ARGV: now, count, then for each: id, token, owner, and what settle_record reads. Answers 1
-- for each that is stored.
local answers, i = {}, 3
for n = 1, tonumber(ARGV[2]) do
  local stored
  stored, i = settle_record(ARGV[i], ARGV[i + 1], ARGV[i + 2], i + 3)
  answers[n] = stored and 1 or 0
end
return answers
