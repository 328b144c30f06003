#!lua flags=allow-oom
-- close: a session takes no more jobs, or takes them again; its queued jobs may be cancelled with it.
--
-- ARGV  1 scope, 2 id, 3 'stop' | 'resume' | 'cancel', 4 failure (JSON) of the jobs that are cancelled,
--       5 retention ms, 6 most jobs cancelled in one go.
-- Gives {'missing'}, {'closed'} when it had ended before, or its time is over and it cannot be resumed (then
-- nothing changed), or {'done', queued jobs that
-- are left to cancel}. It has ended when it takes no more jobs and none is queued or running.

local of = session(ARGV[2])
if not of or of.scope ~= ARGV[1] then return {'missing'} end
if of.state == 'closed' then return {'closed'} end
local now, retention_ms = now_ms(), tonumber(ARGV[5])
if ARGV[3] == 'resume' then
  if now >= deadline(of) then return {'closed'} end
  redis.call('HSET', 'session:' .. of.id, 'accepting', '1')
  return {'done', 0}
end
redis.call('HSET', 'session:' .. of.id, 'accepting', '0')
of.accepting = false
local left = 0
if ARGV[3] == 'cancel' then left = cancel_queued(of, ARGV[4], retention_ms, tonumber(ARGV[6]), now) end
of = session(of.id)
if of.state ~= 'closed' and of.running == 0 and redis.call('EXISTS', 'session:' .. of.id .. ':ready') == 0 then
  close(of, now, retention_ms)
end
return {'done', left}
