#!lua flags=allow-oom
-- next: finishes the job a slot has run, if any, and claims its next one, in one step.
--
-- ARGV  1 holder, 2 executor, 3 lease ms, 4 '1' to claim or '0' to stop,
--       5 wake-up message, 6 cap of wake-ups, 7 retention ms,
--       8 id of the finished job or '', 9 its attempt, 10 final status, 11 failure (JSON) or '',
--       12 reason code or '', 13 result (chunk 0; '' when its chunks lie there already),
--       14 number of result chunks, 15 provenance (JSON) or '', 16 log of the run or ''.
-- Gives {outcome of the finish: 'committed' | 'fenced' | 'none'}, or, with a claim,
-- {outcome, id, attempt, params chunk 0, field, value, … of the record}.
-- A finish with an attempt that is not the current one changes nothing. A claim whose answer was lost is
-- given again to the same holder; when that stops instead, the job goes back. When it stops while jobs wait, it
-- leaves a wake-up behind.

local holder, executor, lease = ARGV[1], ARGV[2], tonumber(ARGV[3])
local now = now_ms()
local held = 'held:' .. holder
local outcome = 'none'

local function commit(id, attempt)
  local job = read(id)
  if not job or job.status ~= 'Running' or job.attempt ~= tonumber(attempt) or job.holder ~= holder then
    count(1, 'finishes_fenced_total')
    return 'fenced'
  end
  local chunks = tonumber(ARGV[14])
  local prefix = 'result:' .. id .. ':' .. attempt .. ':'
  if chunks == 1 and ARGV[13] ~= '' then
    redis.call('SET', prefix .. '0', ARGV[13])
  else
    for chunk = 0, chunks - 1 do redis.call('PERSIST', prefix .. chunk) end
  end
  local given = #ARGV[15] + #ARGV[16]
  for chunk = 0, chunks - 1 do given = given + redis.call('STRLEN', prefix .. chunk) end
  keep(job, given)
  redis.call('HSET', 'job:' .. id, 'result_chunks', chunks)
  if ARGV[15] ~= '' then redis.call('SET', 'provenance:' .. id, ARGV[15]) end
  if ARGV[16] ~= '' then redis.call('SET', 'log:' .. id, ARGV[16]) end
  finalise(job, ARGV[10], ARGV[11], ARGV[12], tonumber(ARGV[7]), now)
  return 'committed'
end

local function claimed(id, attempt)
  return {outcome, id, attempt, redis.call('GET', 'params:' .. id .. ':0'),
    unpack(redis.call('HGETALL', 'job:' .. id))}
end

if ARGV[8] ~= '' then outcome = commit(ARGV[8], ARGV[9]) end

local lost = redis.call('GET', held)
local unheard = lost and read(lost)

if ARGV[4] == '0' then
  -- Unless an older attempt at that very job has spoken: then nobody says that the newer one does not run.
  if unheard and lost ~= ARGV[8] then give_back(unheard, 'returned', '', nil, now) end
  if redis.call('EXISTS', 'ready:' .. executor) == 1 then wake(executor, ARGV[5], tonumber(ARGV[6])) end
  return {outcome}
end

if unheard then
  redis.call('ZADD', 'leases', now + lease, lost)
  count(1, 'claims_handed_back_total')
  return claimed(lost, unheard.attempt)
end

local job = pop(executor, now)
if not job then return {outcome} end
local attempt = redis.call('HINCRBY', 'job:' .. job.id, 'attempt', 1)
redis.call('HSET', 'job:' .. job.id, 'status', 'Running', 'holder', holder, 'started', integer(now),
  'charged', integer(job.charged))
redis.call('ZADD', 'leases', now + lease, job.id)
redis.call('HINCRBY', 'running', executor, 1)
redis.call('SET', held, job.id)
if job.session ~= '' then session_claims(job.session, now) end
observe('job_queue_seconds', executor, now - job.created)
return claimed(job.id, attempt)
