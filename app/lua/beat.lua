#!lua flags=allow-oom
-- beat: a worker says that it lives and which jobs its slots really run; their leases are extended.
--
-- ARGV  1 worker, 2 report (JSON), 3 ms until the report expires, 4 lease ms,
--       then slot, id, attempt of every busy slot.
-- Gives {slot, id, …} of the jobs that are no longer this worker's: their sandboxes must be killed.
-- A job that no slot names is not extended: a claim whose answer was lost runs out by itself.

local now = now_ms()
redis.call('SET', 'worker:' .. ARGV[1], ARGV[2], 'PX', ARGV[3])
redis.call('ZADD', 'workers', now, ARGV[1])
local stale = {}
for i = 5, #ARGV, 3 do
  local slot, id, attempt = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  local job = read(id)
  if job and job.status == 'Running' and job.attempt == attempt
      and job.holder == ARGV[1] .. ':' .. slot then
    redis.call('ZADD', 'leases', 'XX', now + tonumber(ARGV[4]), id)
  else
    stale[#stale + 1] = slot
    stale[#stale + 1] = id
  end
end
return stale
