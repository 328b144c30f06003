#!lua flags=allow-oom
-- cancel: ends a job that is not final yet, at once; the sandbox that runs it is told.
--
-- ARGV  1 scope, 2 id, 3 retention ms.
-- Gives the status before, or 'missing'. A final job does not change. Somebody else's job is missing.

local job = read(ARGV[2])
if not job or job.scope ~= ARGV[1] then return 'missing' end
if is_pending(job.status) then cancel(job, '', tonumber(ARGV[3]), now_ms()) end
return job.status
