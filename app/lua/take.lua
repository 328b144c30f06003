#!lua flags=allow-oom
-- take: reads a result and deletes it, in one step: of two readers, one gets it.
--
-- ARGV  1 scope, 2 id, 3 name of this call, 4 ms for which the same call gets it again.
-- Gives the chunks of the result; none when there is none, or another call took it.
-- Safe to repeat: the result outlives an answer that was lost.

local job = read(ARGV[2])
if not job or job.scope ~= ARGV[1] then return {} end
local record = redis.call('HMGET', 'job:' .. job.id, 'result_chunks', 'taken_by', 'taken_chunks')
local chunks = number(record[1], 0)
local is_first = chunks > 0
if record[2] == ARGV[3] then
  chunks = number(record[3], 0)
elseif is_first then
  redis.call('HSET', 'job:' .. job.id, 'result_chunks', 0, 'taken_by', ARGV[3], 'taken_chunks', chunks)
end
local result, freed = {}, 0
for chunk = 0, chunks - 1 do
  local key = 'result:' .. job.id .. ':' .. job.attempt .. ':' .. chunk
  result[chunk + 1] = redis.call('GET', key) or ''
  redis.call('PEXPIRE', key, ARGV[4])
  freed = freed + #result[chunk + 1]
end
if is_first then keep(job, -freed) end
return result
