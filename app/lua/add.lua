#!lua
-- add: makes a job, puts it in the queue and wakes a worker, in one step.
--
-- ARGV  1 id, 2 owner, 3 executor, 4 priority, 5 params (chunk 0; '' when the chunks lie there already),
--       6 number of params chunks, 7 idempotency key or '', 8 fingerprint, 9 idempotency ms,
--       10 wake-up message, 11 cap of wake-ups, 12 most queued of the executor, 13 most queued of the
--       owner there, 14 listed '1' or '0', 15 program id, 16 backend, then field, value, … of the record.
-- Gives {'created' | 'existing', id, field, value, … of the record}, {'conflict'},
-- or {'executor_full' | 'owner_full', number queued}.
-- A wake-up is pushed unless as many lie there as jobs are queued: those will serve this one too.
-- Safe to repeat: a known id or idempotency key changes nothing. Refused by a full Redis (no allow-oom).

local id, owner, executor, priority = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local chunks, cap = tonumber(ARGV[6]), tonumber(ARGV[11])

local function answer(outcome, job_id)
  return {outcome, job_id, unpack(redis.call('HGETALL', 'job:' .. job_id))}
end

local idempotency = 'idempotency:' .. owner .. ':' .. ARGV[7]
if ARGV[7] ~= '' then
  local known = redis.call('GET', idempotency)
  if known then
    local fingerprint, known_id = string.match(known, '^(%S+) (%S+)$')
    if fingerprint ~= ARGV[8] then return {'conflict'} end
    return answer('existing', known_id)
  end
end
if redis.call('EXISTS', 'job:' .. id) == 1 then return answer('existing', id) end

local queued = redis.call('ZCARD', 'arrivals:' .. executor)
if queued >= tonumber(ARGV[12]) then return {'executor_full', integer(queued)} end
queued = redis.call('ZCARD', 'ready:' .. executor .. ':' .. owner)
if queued >= tonumber(ARGV[13]) then return {'owner_full', integer(queued)} end

local now = now_ms()
local sequence = redis.call('INCR', 'sequence')
redis.call('HSET', 'job:' .. id, 'status', 'Queued', 'attempt', 0, 'crashes', 0, 'owner', owner,
  'executor', executor, 'priority', integer(priority), 'sequence', integer(sequence),
  'created', integer(now), 'params_chunks', chunks, 'program_id', ARGV[15], 'backend', ARGV[16],
  'listed', ARGV[14], unpack(ARGV, 17))
if chunks == 1 then
  redis.call('SET', 'params:' .. id .. ':0', ARGV[5])
else
  for chunk = 0, chunks - 1 do redis.call('PERSIST', 'params:' .. id .. ':' .. chunk) end
end
if ARGV[7] ~= '' then redis.call('SET', idempotency, ARGV[8] .. ' ' .. id, 'PX', ARGV[9]) end
if ARGV[14] == '1' then
  redis.call('ZADD', 'jobs:' .. owner, sequence, id)
  count(1, 'jobs_submitted_total', ARGV[15], ARGV[16])
end
enqueue(id, executor, owner, sequence, priority, now)
wake(executor, ARGV[10], math.min(cap, redis.call('ZCARD', 'arrivals:' .. executor)))
return answer('created', id)
