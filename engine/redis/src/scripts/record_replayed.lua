-- Records that tasks were put back from the dead letters. ARGV: now, then tasks.
for n = 2, #ARGV do
  replay_record(ARGV[n])
end
return #ARGV
