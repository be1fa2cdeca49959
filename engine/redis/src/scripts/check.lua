-- Tries to write. ARGV: now.
redis.call('SET', P .. 'q/checked', now, 'PX', 60000)
return now
