#!lua
-- add: makes a job, puts it in the queue and wakes a worker, in one step.
--
-- ARGV  1 id, 2 scope (owner:instance), 3 executor, 4 priority, 5 params (chunk 0; '' when the chunks lie there
--       already), 6 number of params chunks, 7 idempotency key or '', 8 fingerprint, 9 idempotency ms,
--       10 wake-up message, 11 cap of wake-ups, 12 most queued of the executor, 13 most queued of the
--       owner there, 14 listed '1' or '0', 15 program id, 16 backend, 17 tags (JSON), 18 session id or '',
--       19 ms for which a request without a key, whose answer did not arrive, is known again, or 0,
--       20 ms that an answer may be under way, then field, value, … of the record.
-- Gives {'created' | 'existing', id, field, value, … of the record}, {'conflict'}, {'answering'},
-- {'executor_full' | 'owner_full', number queued}, {'session_missing'}, {'session_backend', backend} or
-- {'session_closed', state}.
-- A wake-up is pushed unless as many lie there as jobs are queued: those will serve this one too.
-- Safe to repeat: a known id or idempotency key changes nothing. Refused by a full Redis (no allow-oom).

local id, scope, executor, priority = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local owner = string.match(scope, '^[^:]+')
local chunks, cap, retry_ms = tonumber(ARGV[6]), tonumber(ARGV[11]), tonumber(ARGV[19])
local now = now_ms()

local function answer(outcome, job_id)
  return {outcome, job_id, unpack(redis.call('HGETALL', 'job:' .. job_id))}
end

local idempotency = 'idempotency:' .. scope .. ':' .. ARGV[7]
local unanswered = 'unanswered:' .. scope .. ':' .. ARGV[8]
if ARGV[7] ~= '' then
  local known = redis.call('GET', idempotency)
  if known then
    local fingerprint, known_id = string.match(known, '^(%S+) (%S+)$')
    if fingerprint ~= ARGV[8] then return {'conflict'} end
    return answer('existing', known_id)
  end
end
if redis.call('EXISTS', 'job:' .. id) == 1 then return answer('existing', id) end
if ARGV[7] == '' and retry_ms > 0 then
  local known = read(redis.call('GET', unanswered) or '')
  if known and now - known.created < tonumber(ARGV[20]) then return {'answering'} end
  if known then return answer('existing', known.id) end
end

if ARGV[18] ~= '' then
  local of = session(ARGV[18])
  if not of or of.scope ~= scope then return {'session_missing'} end
  if not of.accepting then return {'session_closed', of.state} end
  if of.backend ~= ARGV[16] then return {'session_backend', of.backend} end
end
local queued = redis.call('ZCARD', 'arrivals:' .. executor)
if queued >= tonumber(ARGV[12]) then return {'executor_full', integer(queued)} end
queued = redis.call('ZCARD', 'ready:' .. executor .. ':' .. owner)
if queued >= tonumber(ARGV[13]) then return {'owner_full', integer(queued)} end

local sequence = next_sequence(now)
redis.call('HSET', 'job:' .. id, 'status', 'Queued', 'attempt', 0, 'crashes', 0, 'owner', owner,
  'scope', scope, 'executor', executor, 'priority', integer(priority), 'sequence', integer(sequence),
  'arrival', integer(sequence), 'created', integer(now), 'params_chunks', chunks, 'program_id', ARGV[15],
  'backend', ARGV[16], 'listed', ARGV[14], 'tags', ARGV[17], 'session_id', ARGV[18], unpack(ARGV, 21))
if chunks == 1 then
  redis.call('SET', 'params:' .. id .. ':0', ARGV[5])
else
  for chunk = 0, chunks - 1 do redis.call('PERSIST', 'params:' .. id .. ':' .. chunk) end
end
if ARGV[7] ~= '' then
  redis.call('SET', idempotency, ARGV[8] .. ' ' .. id, 'PX', ARGV[9])
elseif retry_ms > 0 then
  redis.call('SET', unanswered, id, 'PX', retry_ms)
end
local job = read(id)
if job.listed then
  list(job)
  count(1, 'jobs_submitted_total', ARGV[15], ARGV[16])
end
enqueue(job, now)
wake(executor, ARGV[10], math.min(cap, redis.call('ZCARD', 'arrivals:' .. executor)))
return answer('created', id)
