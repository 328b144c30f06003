#!lua flags=allow-oom
-- take: reads a result and deletes it, in one step: of two readers, one gets it.
--
-- ARGV  1 scope, 2 id.
-- Gives the chunks of the result; none when there is none, or it was taken before.

local job = read(ARGV[2])
if not job or job.scope ~= ARGV[1] then return {} end
local chunks = number(redis.call('HGET', 'job:' .. job.id, 'result_chunks'), 0)
local result = {}
for chunk = 0, chunks - 1 do
  result[chunk + 1] = redis.call('GET', 'result:' .. job.id .. ':' .. job.attempt .. ':' .. chunk) or ''
end
erase_result(job.id, job.attempt, chunks)
redis.call('HSET', 'job:' .. job.id, 'result_chunks', 0)
return result
