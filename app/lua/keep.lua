#!lua flags=allow-oom
-- keep: stores a chunk of a large result before its job is finished; a full Redis takes it too.
--
-- ARGV  1 id, 2 attempt, 3 number of the chunk, 4 the chunk, 5 seconds after which it is gone unless the finish comes.
-- Of an attempt that is not running any more nothing is stored: a finish that is repeated because its answer was lost
-- must not touch what it has committed.

local job = read(ARGV[1])
if job and job.status == 'Running' and job.attempt == tonumber(ARGV[2]) then
  redis.call('SET', 'result:' .. job.id .. ':' .. ARGV[2] .. ':' .. ARGV[3], ARGV[4], 'EX', ARGV[5])
end
return 1
