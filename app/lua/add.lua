#!lua
-- add: makes a job, puts it in the queue and wakes a worker, in one step.
--
-- ARGV  1 id, 2 scope (owner:instance), 3 executor, 4 priority, 5 params (chunk 0; '' when the chunks lie there
--       already), 6 number of params chunks, 7 idempotency key or '', 8 fingerprint, 9 idempotency ms,
--       10 wake-up message, 11 cap of wake-ups, 12 most queued jobs of all, 13 of one owner, 14 listed '1' or
--       '0', 15 program id, 16 backend, 17 tags (JSON), 18 session id or '',
--       19 ms for which a request without a key, whose answer did not arrive, is known again, or 0,
--       20 ms that an answer may be under way, 21 bytes of the params, 22 most bytes queued of all, 23 of one
--       owner, 24 days that a plan's seconds are counted in, 25 most bytes that an owner's jobs keep, or '': any,
--       then field, value, … of the record.
-- Gives {'created' | 'existing', id, field, value, … of the record}, {'conflict'}, {'answering'},
-- {'all_jobs' | 'all_bytes' | 'owner_jobs' | 'owner_bytes', how much is queued}, {'owner_kept', bytes kept, bytes
-- asked}, {'plan_queued', number queued, allowed, plan}, {'plan_seconds', ms used, seconds allowed, plan, ms until it
-- is less}, {'plan_kept', bytes kept, bytes asked, allowed, plan}, {'session_missing'}, {'session_backend', backend} or
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
  local age = known and now - known.created
  -- Less than nothing when the clock was set back.
  if known and age >= 0 and age < tonumber(ARGV[20]) then return {'answering'} end
  if known then return answer('existing', known.id) end
end

if ARGV[18] ~= '' then
  local of = session(ARGV[18])
  if not of or of.scope ~= scope then return {'session_missing'} end
  if not of.accepting then return {'session_closed', of.state} end
  if of.backend ~= ARGV[16] then return {'session_backend', of.backend} end
end

local bytes = tonumber(ARGV[21])
-- Tags that cannot be read fail here, before anything is written.
local asked = bytes + RECORD_BYTES + #cjson.decode(ARGV[17]) * TAG_BYTES
-- Whose own limit is reached is told that, whatever the others do.
if ARGV[25] ~= '' then
  local kept = kept_of(owner)
  if kept + asked > tonumber(ARGV[25]) then return {'owner_kept', integer(kept), integer(asked)} end
end
for _, of in ipairs({{'owner', owner, ARGV[13], ARGV[23]}, {'all', '*', ARGV[12], ARGV[22]}}) do
  local jobs_queued = number(redis.call('HGET', 'queued:jobs', of[2]), 0)
  if jobs_queued >= tonumber(of[3]) then return {of[1] .. '_jobs', integer(jobs_queued)} end
  local bytes_queued = number(redis.call('HGET', 'queued:bytes', of[2]), 0)
  if bytes_queued + bytes > tonumber(of[4]) then return {of[1] .. '_bytes', integer(bytes_queued)} end
end

local allowed, plan = quota(scope, 'queued')
if allowed then
  local queued = redis.call('ZCARD', 'jobs:' .. scope .. ':state:pending') - running_of(scope)
  if queued >= allowed then return {'plan_queued', integer(queued), integer(allowed), plan} end
end
allowed, plan = quota(scope, 'seconds')
if allowed then
  local used, less_in = used_ms(scope, tonumber(ARGV[24]), allowed * 1000, now)
  if less_in then return {'plan_seconds', integer(used), integer(allowed), plan, integer(less_in)} end
end
allowed, plan = quota(scope, 'kept_bytes')
if allowed then
  local kept = kept_of(scope)
  if kept + asked > allowed then return {'plan_kept', integer(kept), integer(asked), integer(allowed), plan} end
end

local sequence = next_sequence(now)
redis.call('HSET', 'job:' .. id, 'status', 'Queued', 'attempt', 0, 'crashes', 0, 'owner', owner,
  'scope', scope, 'executor', executor, 'priority', integer(priority), 'sequence', integer(sequence),
  'arrival', integer(sequence), 'created', integer(now), 'params_chunks', chunks, 'program_id', ARGV[15],
  'backend', ARGV[16], 'listed', ARGV[14], 'tags', ARGV[17], 'session_id', ARGV[18],
  'params_bytes', bytes, 'kept_bytes', integer(asked), unpack(ARGV, 26))
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
tally_kept(job, asked)
if job.listed then
  list(job)
  count(1, 'jobs_submitted_total', ARGV[15], ARGV[16])
end
if enqueue(job, now) == 'ready' then
  wake(executor, ARGV[10], math.min(cap, redis.call('ZCARD', 'arrivals:' .. executor)))
else
  redis.call('HSET', 'wakeups', executor, cap .. ' ' .. ARGV[10])
end
return answer('created', id)
