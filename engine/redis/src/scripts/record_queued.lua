-- Records new tasks, where the broker is another service. ARGV: now, then for each: id, queue, name, allowed retries,
-- enqueued at, not before or ''.
for i = 2, #ARGV, 6 do
  queue_record(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5])
end
return #ARGV
