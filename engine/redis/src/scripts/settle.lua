-- Ends deliveries. ARGV: those of lib_settle. Answers 1 for each that happened, 0 for a stale one.
return answers
