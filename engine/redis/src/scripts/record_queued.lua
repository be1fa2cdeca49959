-- Records new tasks, where the broker is another service. ARGV: now, then for each: id, queue, name, allowed retries,
-- enqueued at, not before or '', parent or '', root or ''.
for i = 2, #ARGV, 8 do
  queue_record(unpack(ARGV, i, i + 7))
end
return #ARGV
