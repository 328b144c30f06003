#!lua flags=allow-oom
-- hand_over: a slot has found out which executor suits its job; the job goes to that executor's queue.
--
-- ARGV  1 holder, 2 id, 3 attempt, 4 executor, 5 why (JSON), 6 wake-up message of that executor, 7 cap of wake-ups.
-- Gives 'Queued', 'unserved' when no live worker serves that executor, or 'stale' when the attempt is not the
-- current one: with these two, nothing changed.
-- The job keeps its place, its priority and its session, and the claim is none of its attempts. Should the last
-- worker of that executor go before it has run, `reap` takes it back.

local holder, id, executor = ARGV[1], ARGV[2], ARGV[4]

local job = read(id)
if not job or job.status ~= 'Running' or job.attempt ~= tonumber(ARGV[3]) or job.holder ~= holder then
  return 'stale'
end
if not served()[executor] then return 'unserved' end
local now = now_ms()
if running_quota(job) then redis.call('HSET', 'wakeups', executor, ARGV[7] .. ' ' .. ARGV[6]) end
stop_running(job, now)
redis.call('HINCRBY', 'job:' .. id, 'handed_over', 1)
redis.call('HSET', 'job:' .. id, 'executor', executor, 'handed_from', job.executor, 'choice', ARGV[5])
job.executor, job.handed_from = executor, job.executor
requeue(job, now)
count(1, 'jobs_handed_over_total', executor)
wake(executor, ARGV[6], math.min(tonumber(ARGV[7]), redis.call('ZCARD', 'arrivals:' .. executor)))
return 'Queued'
