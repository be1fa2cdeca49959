require_relative "noop"

if ARGV[0] == "enqueue"
  Array.new(ARGV[1].to_i) { [] }.each_slice(1000) { |args| Sidekiq::Client.push_bulk("class" => Noop, "args" => args) }
else
  now = -> { Process.clock_gettime(Process::CLOCK_MONOTONIC, :float_millisecond) }
  $stdin.each_line do
    start = now.call
    jid = Noop.perform_async
    RESULTS.with { |redis| redis.brpop("result:#{jid}") } # waits in Redis
    $stdout.puts(now.call - start)
    $stdout.flush
  end
end
