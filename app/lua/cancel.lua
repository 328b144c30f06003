#!lua flags=allow-oom
-- cancel: ends a job that is not final yet, at once; the sandbox that runs it is told.
--
-- ARGV  1 owner, 2 id, 3 retention ms.
-- Gives the status before, or 'missing'. A final job does not change. Somebody else's job is missing.

local job = read(ARGV[2])
if not job or job.owner ~= ARGV[1] then return 'missing' end
if job.status == 'Queued' or job.status == 'Running' then
  finalise(ARGV[2], job, 'Cancelled', '', '', tonumber(ARGV[3]), now_ms())
  if job.status == 'Running' then redis.call('PUBLISH', 'cancel', job.holder .. ' ' .. ARGV[2]) end
end
return job.status
