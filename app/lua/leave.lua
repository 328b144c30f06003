#!lua flags=allow-oom
-- leave: a worker that has given everything back says goodbye.
--
-- ARGV  1 worker.

redis.call('DEL', 'worker:' .. ARGV[1])
redis.call('ZREM', 'workers', ARGV[1])
return 1
