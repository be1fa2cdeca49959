-- Records that tasks are put back from the dead letters. ARGV: now, then for each: id, token. Answers 1 for each that is as it
-- should be, 0 for one that has failed under a newer token.
local answers = {}
for n = 2, #ARGV, 2 do
  answers[n / 2] = replay_record(ARGV[n], ARGV[n + 1]) and 1 or 0
end
return answers
