#!lua flags=allow-oom
-- delete: everything of a job is gone; one that is not final is cancelled before.
--
-- ARGV  1 scope, 2 id, 3 retention ms of a session that ends with it, 4 ms for which it is 'deleted' when asked again,
--       until the answer has gone out (`answered`), or 0, 5 fingerprint of that.
-- Gives 'deleted' or 'missing'. Somebody else's job is missing.

local job, retry_ms = read(ARGV[2]), tonumber(ARGV[4])
local unanswered = 'unanswered:' .. ARGV[1] .. ':' .. ARGV[5]
if not job or job.scope ~= ARGV[1] then
  return retry_ms > 0 and redis.call('EXISTS', unanswered) == 1 and 'deleted' or 'missing'
end
if is_pending(job.status) then cancel(job, '', tonumber(ARGV[3]), now_ms()) end
erase(job.id)
if retry_ms > 0 then redis.call('SET', unanswered, job.id, 'PX', retry_ms) end
return 'deleted'
