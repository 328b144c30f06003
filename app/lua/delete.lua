#!lua flags=allow-oom
-- delete: everything of a job is gone; one that is not final is cancelled before.
--
-- ARGV  1 scope, 2 id, 3 retention ms of a session that ends with it.
-- Gives 'deleted' or 'missing'. Somebody else's job is missing.

local job = read(ARGV[2])
if not job or job.scope ~= ARGV[1] then return 'missing' end
if is_pending(job.status) then cancel(job, '', tonumber(ARGV[3]), now_ms()) end
erase(job.id)
return 'deleted'
