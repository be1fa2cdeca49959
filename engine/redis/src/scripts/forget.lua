-- Removes records that are not final. ARGV: now, then tasks. Answers how many there were.
local count = 0
for n = 2, #ARGV do
  local state = state_of(ARGV[n])
  if state and not MAY[state]['final'] then
    remove_record(ARGV[n])
    count = count + 1
  end
end
return count
