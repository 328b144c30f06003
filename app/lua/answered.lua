#!lua flags=allow-oom
-- answered: the answer to a request without an idempotency key has gone out; the same request is a new one now.
--
-- ARGV  1 scope, 2 fingerprint, 3 id of the job it made, or deleted.

local unanswered = 'unanswered:' .. ARGV[1] .. ':' .. ARGV[2]
if redis.call('GET', unanswered) == ARGV[3] then redis.call('DEL', unanswered) end
return 1
