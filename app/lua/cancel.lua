#!lua flags=allow-oom
-- cancel: ends a job that is not final yet, at once; the sandbox that runs it is told.
--
-- ARGV  1 scope, 2 id, 3 retention ms, 4 name of this call.
-- Gives the status before, or 'missing'. A final job does not change. Somebody else's job is missing.
-- Safe to repeat: who did not hear that this call has cancelled it, is told so.

local job = read(ARGV[2])
if not job or job.scope ~= ARGV[1] then return 'missing' end
if is_pending(job.status) then
  cancel(job, '', tonumber(ARGV[3]), now_ms())
  redis.call('HSET', 'job:' .. job.id, 'cancelled_by', ARGV[4])
elseif redis.call('HGET', 'job:' .. job.id, 'cancelled_by') == ARGV[4] then
  return 'Queued'
end
return job.status
