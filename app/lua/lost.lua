#!lua flags=allow-oom
-- lost: a slot could not bring its job to an end; the job goes back, or fails when that happened too often.
--
-- ARGV  1 holder, 2 id, 3 attempt, 4 kind: 'crash' | 'lost' | 'returned', 5 failure (JSON) should it be the last time,
--       6 max attempts, 7 max crashes, 8 retention ms, 9 wake-up message, 10 cap of wake-ups.
-- Gives the job's new status, or 'stale' when the attempt is not the current one: then nothing changed.

local holder, id = ARGV[1], ARGV[2]
local job = read(id)
if not job or job.status ~= 'Running' or job.attempt ~= tonumber(ARGV[3]) or job.holder ~= holder then
  return 'stale'
end
local limits = {
  max_attempts = tonumber(ARGV[6]), max_crashes = tonumber(ARGV[7]), retention_ms = tonumber(ARGV[8]),
}
local status = give_back(job, ARGV[4], ARGV[5], limits, now_ms())
if status == 'Queued' then wake(job.executor, ARGV[9], tonumber(ARGV[10])) end
return status
