-- Records that attempts run. ARGV: now, then for each: id, token, owner, attempt, deliveries, at, worker. Answers 1 for
-- each that is on record.
local answers = {}
for i = 2, #ARGV, 7 do
  local stored = begin_record(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5],
    ARGV[i + 6])
  answers[#answers + 1] = stored and 1 or 0
end
return answers
