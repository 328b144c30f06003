-- What several verbs do. Stands in front of each of them; holds no state.

-- Service that a claim is charged with until its real run time is known.
local QUANTUM_MS = 100
-- One step of priority outweighs any order of arrival.
local PRIORITY_STEP = 3e13
local DEAD_KEPT = 1000
-- A session that was closed with running jobs is looked at again after this time, should nobody have ended it.
local SESSION_LOOK_MS = 60000
-- Most of a session's history that is kept.
local HISTORY_BYTES = 16384
local DAY_MS, USAGE_DAYS = 86400000, 62
-- A job that no list shows (a validation) has one reader, who is waiting for it.
local UNLISTED_RETENTION_MS = 60000
-- What a job takes beside its strings: its record and its places in queues and lists (measured: 1.5 KB), and at each
-- of its tags (0.4 KB, if nobody else has that one).
local RECORD_BYTES, TAG_BYTES = 2048, 512
-- Most jobs that one step lets in or sends back: what a changed quota asks for is spread over several.
local PARKED_AT_ONCE = 100

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function number(value, default)
  return tonumber(value or nil) or default
end

local function integer(value)
  return string.format('%.0f', value)
end

-- Order of arrival: the time in microseconds, made unique.
local function next_sequence(now)
  local sequence = math.max(number(redis.call('GET', 'sequence'), 0) + 1, now * 1000)
  redis.call('SET', 'sequence', integer(sequence))
  return sequence
end

-- Adds to a counter that is not there while it is zero.
local function tally(key, field, by)
  if by ~= 0 and redis.call('HINCRBY', key, field, integer(by)) <= 0 then redis.call('HDEL', key, field) end
end

local function count(by, ...)
  redis.call('HINCRBY', 'stats', table.concat({...}, '|'), by)
end

local function observe(name, label, value_ms)
  -- The clock may have been set back.
  value_ms = math.max(value_ms, 0)
  local bucket = #BUCKETS_MS
  for i, bound in ipairs(BUCKETS_MS) do
    if value_ms <= bound then bucket = i - 1 break end
  end
  count(1, name, label, bucket)
  count(value_ms, name, label, 'sum_ms')
end

-- Wake-ups -------------------------------------------------------------------------------------

-- Pushes one wake-up for the executor unless `cap` of them lie there already.
-- The message is what kombu rendered; every mark in it becomes a value of its own.
local function wake(executor, message, cap)
  if message == '' or redis.call('LLEN', executor) >= cap then return false end
  local unique = 'w' .. integer(redis.call('INCR', 'wakeup:sequence'))
  redis.call('LPUSH', executor, (string.gsub(message, WAKEUP_MARK, unique)))
  count(1, 'wakeups_pushed_total', executor)
  return true
end

-- Lists ----------------------------------------------------------------------------------------
-- A listed job is in the list of its scope (owner:instance) and in one index per thing that lists can
-- be narrowed by; the score is its arrival in microseconds.

local function indexes(job)
  local names = {'backend:' .. job.backend, 'program:' .. job.program}
  if job.session ~= '' then names[#names + 1] = 'session:' .. job.session end
  for _, tag in ipairs(cjson.decode(job.tags)) do names[#names + 1] = 'tag:' .. tag end
  return names
end

local function is_pending(status)
  return status == 'Queued' or status == 'Running'
end

local function list(job)
  local all = 'jobs:' .. job.scope
  redis.call('ZADD', all, job.arrival, job.id)
  redis.call('ZADD', all .. ':state:pending', job.arrival, job.id)
  for _, name in ipairs(indexes(job)) do redis.call('ZADD', all .. ':' .. name, job.arrival, job.id) end
  if job.session == '' then redis.call('ZADD', 'workloads:' .. job.scope, job.arrival, 'job ' .. job.id) end
end

local function unlist(job)
  local all = 'jobs:' .. job.scope
  for _, name in ipairs({'state:pending', 'state:final', unpack(indexes(job))}) do
    redis.call('ZREM', all .. ':' .. name, job.id)
  end
  redis.call('ZREM', all, job.id)
  redis.call('ZREM', 'workloads:' .. job.scope, 'job ' .. job.id)
end

-- Sessions -------------------------------------------------------------------------------------
-- open → active (a job of it runs) → inactive (nothing to do for its interactive time) → active … →
-- closed. The queued jobs of an active dedicated session go before all others of their executor;
-- those of a batch wait like any other.

local function session(id)
  -- The caller's word; other keys have names with a colon behind a session's.
  if string.find(id, ':', 1, true) then return nil end
  local values = redis.call('HMGET', 'session:' .. id, 'state', 'accepting', 'mode', 'executor', 'created',
    'started', 'activated', 'max_ttl_ms', 'interactive_ttl_ms', 'running', 'scope', 'backend', 'arrival')
  if not values[1] then return nil end
  return {
    id = id, state = values[1], accepting = values[2] == '1', mode = values[3], executor = values[4],
    created = tonumber(values[5]), started = number(values[6], 0), activated = number(values[7], 0),
    max_ttl_ms = tonumber(values[8]), interactive_ttl_ms = tonumber(values[9]), running = number(values[10], 0),
    scope = values[11], backend = values[12], arrival = values[13],
  }
end

local function deadline(of)
  return (of.started > 0 and of.started or of.created) + of.max_ttl_ms
end

local function look_at(id, when)
  redis.call('ZADD', 'sessions:due', integer(when), id)
end

local function enter_state(of, state, now)
  local history = redis.call('HGET', 'session:' .. of.id, 'history') or ''
  if #history < HISTORY_BYTES then history = history .. state .. ' ' .. integer(now) .. ';' end
  if of.state == 'active' then
    redis.call('HINCRBY', 'session:' .. of.id, 'active_ms', integer(math.max(now - of.activated, 0)))
  end
  redis.call('HSET', 'session:' .. of.id, 'state', state, 'history', history)
  of.state = state
end

local function close(of, now, retention_ms)
  enter_state(of, 'closed', now)
  redis.call('HSET', 'session:' .. of.id, 'closed', integer(now), 'accepting', '0')
  look_at(of.id, now + retention_ms)
end

-- A queued job of it starts.
local function session_claims(id, now)
  local of = session(id)
  if not of then return end
  redis.call('HINCRBY', 'session:' .. id, 'running', 1)
  redis.call('HSET', 'session:' .. id, 'last_started', integer(now))
  if of.state ~= 'active' and of.state ~= 'closed' then
    if of.started == 0 then
      of.started = now
      redis.call('HSET', 'session:' .. id, 'started', integer(now))
    end
    enter_state(of, 'active', now)
    redis.call('HSET', 'session:' .. id, 'activated', integer(now))
    local has_more = redis.call('EXISTS', 'session:' .. id .. ':ready:' .. of.executor) == 1
    if of.mode == 'dedicated' and has_more then
      redis.call('ZADD', 'dedicated:' .. of.executor, integer(now), id)
    end
  end
  look_at(id, deadline(of))
end

-- A job of it has ended, or left the queue.
local function session_settles(id, now, retention_ms)
  local of = session(id)
  if not of or of.state == 'closed' then return end
  redis.call('HSET', 'session:' .. id, 'last_completed', integer(now))
  if of.running > 0 or redis.call('EXISTS', 'session:' .. id .. ':ready') == 1 then return end
  if not of.accepting then
    close(of, now, retention_ms)
  elseif of.state == 'active' then
    look_at(id, math.min(deadline(of), now + of.interactive_ttl_ms))
  end
end

-- What may start of a session on one executor: a job may have been handed over to another.
local function session_queue(job)
  return 'session:' .. job.session .. ':ready:' .. job.executor
end

-- A job of it waits, maybe for a quota: it does not become inactive meanwhile.
local function session_waits(job, order)
  redis.call('ZADD', 'session:' .. job.session .. ':ready', order, job.id)
  local of = session(job.session)
  if of and of.state == 'active' then look_at(of.id, deadline(of)) end
end

local function session_makes_ready(job, order, now)
  redis.call('ZADD', session_queue(job), order, job.id)
  local of = session(job.session)
  if of and of.state == 'active' and of.mode == 'dedicated' then
    redis.call('ZADD', 'dedicated:' .. job.executor, 'NX', integer(now), of.id)
  end
end

local function session_leaves_ready(job)
  redis.call('ZREM', session_queue(job), job.id)
  if redis.call('EXISTS', session_queue(job)) == 0 then
    redis.call('ZREM', 'dedicated:' .. job.executor, job.session)
  end
end

-- The job of an active dedicated session that is next on this executor; sessions take turns.
local function next_dedicated(executor, now)
  local sessions = 'dedicated:' .. executor
  while true do
    local id = redis.call('ZRANGE', sessions, 0, 0)[1]
    if not id then return nil end
    local job = redis.call('ZRANGE', 'session:' .. id .. ':ready:' .. executor, 0, 0)[1]
    if job then
      redis.call('ZADD', sessions, integer(now), id)
      return job
    end
    redis.call('ZREM', sessions, id)
  end
end

local function read(id)
  local values = redis.call('HMGET', 'job:' .. id, 'status', 'attempt', 'owner', 'executor', 'holder',
    'started', 'created', 'sequence', 'priority', 'crashes', 'listed', 'scope', 'session_id', 'backend',
    'program_id', 'tags', 'arrival', 'handed_over', 'handed_from', 'params_bytes', 'returned', 'charged',
    'kept_bytes')
  if not values[1] then return nil end
  return {
    id = id, status = values[1], attempt = tonumber(values[2]), owner = values[3], executor = values[4],
    holder = values[5] or '', started = number(values[6], 0), created = tonumber(values[7]),
    sequence = tonumber(values[8]), priority = tonumber(values[9]), crashes = tonumber(values[10]),
    listed = values[11] == '1', scope = values[12], session = values[13], backend = values[14],
    program = values[15], tags = values[16], arrival = values[17], handed_over = number(values[18], 0),
    handed_from = values[19] or '', bytes = number(values[20], 0), returned = number(values[21], 0),
    charged = number(values[22], 0), kept = number(values[23], 0),
  }
end

-- What is kept -----------------------------------------------------------------------------------
-- `kept_bytes` of a record is what its job has been counted with, so that as much is taken back: of a job from the time
-- before that was counted, nothing.

local function tally_kept(job, by)
  for _, name in ipairs({job.owner, job.scope}) do tally('kept:bytes', name, by) end
end

-- The job has so many bytes more, or less.
local function keep(job, by)
  by = math.max(by, -job.kept)
  if by == 0 then return end
  job.kept = job.kept + by
  redis.call('HSET', 'job:' .. job.id, 'kept_bytes', integer(job.kept))
  tally_kept(job, by)
end

local function kept_of(name)
  return number(redis.call('HGET', 'kept:bytes', name), 0)
end

-- The fair queue (start-time fair queueing: Goyal, Vin, Cheng, SIGCOMM 1996) ---------------------
-- An owner's tag is the service it has consumed, never behind the virtual time `clock`. The owner
-- with the smallest tag is served next; who comes back after a pause starts at the clock, so that
-- nobody saves service up and nobody waits for another's backlog.

local function virtual_time(executor)
  return number(redis.call('GET', 'clock:' .. executor), 0)
end

-- `noted` is where the owner was when the job was claimed: `reap` forgets who has fallen behind the clock, though
-- a job of theirs may run still. Gives the tag.
local function charge(executor, owner, service_ms, noted)
  local tag = math.max(
    number(redis.call('ZSCORE', 'service:' .. executor, owner), noted) + service_ms,
    virtual_time(executor))
  redis.call('ZADD', 'service:' .. executor, tag, owner)
  redis.call('ZADD', 'ready:' .. executor, 'XX', tag, owner)
  return tag
end

local function make_ready(job, order, now)
  redis.call('ZADD', 'ready:' .. job.executor .. ':' .. job.owner, order, job.id)
  if not redis.call('ZSCORE', 'ready:' .. job.executor, job.owner) then
    redis.call('ZADD', 'ready:' .. job.executor, 0, job.owner)
    charge(job.executor, job.owner, 0, 0)
  end
  if job.session ~= '' then session_makes_ready(job, order, now) end
end

local function leave_ready(job)
  local mine = 'ready:' .. job.executor .. ':' .. job.owner
  redis.call('ZREM', mine, job.id)
  if redis.call('EXISTS', mine) == 0 then redis.call('ZREM', 'ready:' .. job.executor, job.owner) end
  if job.session ~= '' then session_leaves_ready(job) end
end

-- Quotas ---------------------------------------------------------------------------------------
-- Of a scope whose plan limits its running jobs, only so many queued ones are in the fair queue of an
-- executor (its window) as may start; the others are parked. So who looks for work never has to pass over
-- jobs that may not run. On every executor holds: running + window >= limit, or nothing is parked.

local plans_exist

-- Whether a plan has, or ever had, a quota; if none has, nothing is parked.
local function has_plans()
  if plans_exist == nil then plans_exist = redis.call('EXISTS', 'plans') == 1 end
  return plans_exist
end

-- What the plan of the scope allows of `what`, or nil: without limit.
local function quota(scope, what)
  if not has_plans() then return nil end
  local owner, instance = string.match(scope, '^([^:]+):(.+)$')
  local plan = redis.call('HGET', 'instances:' .. owner, instance) or DEFAULT_PLAN
  return number(redis.call('HGET', 'plans', plan .. '|' .. what), nil), plan
end

-- A validation is short and somebody waits for it: it runs beside the quota.
local function running_quota(job)
  return job.listed and quota(job.scope, 'running') or nil
end

local function running_of(scope)
  return number(redis.call('HGET', 'running:scopes', scope), 0)
end

local function parked_of(executor, scope)
  return 'parked:' .. executor .. ':' .. scope
end

local function window_of(executor, scope)
  return 'window:' .. executor .. ':' .. scope
end

local function room(executor, scope, limit)
  return limit - running_of(scope) - redis.call('ZCARD', window_of(executor, scope))
end

local function park(job, order, now)
  redis.call('ZADD', parked_of(job.executor, job.scope), order, job.id)
  redis.call('SADD', 'parked_on:' .. job.scope, job.executor)
  redis.call('ZADD', 'parked_scopes', 'NX', now, job.scope)
  tally('parked_jobs', job.executor, 1)
end

-- Whether the job was parked; it is not any more.
local function unpark(executor, scope, id)
  local parked = parked_of(executor, scope)
  if redis.call('ZREM', parked, id) == 0 then return false end
  tally('parked_jobs', executor, -1)
  if redis.call('EXISTS', parked) == 0 then
    redis.call('SREM', 'parked_on:' .. scope, executor)
    if redis.call('EXISTS', 'parked_on:' .. scope) == 0 then redis.call('ZREM', 'parked_scopes', scope) end
  end
  return true
end

-- Wakes a worker with the message that was noted when a job was parked.
local function wake_again(executor)
  local cap, message = string.match(redis.call('HGET', 'wakeups', executor) or '', '^(%d+) (.*)$')
  if cap then wake(executor, message, tonumber(cap)) end
end

-- Parked jobs for which there is room now go into the fair queue.
local function let_in_on(executor, scope, now)
  local parked = parked_of(executor, scope)
  if redis.call('EXISTS', parked) == 0 then return end
  local limit = quota(scope, 'running')
  local free = math.min(limit and room(executor, scope, limit) or PARKED_AT_ONCE, PARKED_AT_ONCE)
  if free < 1 then return end
  local found = redis.call('ZRANGE', parked, 0, free - 1, 'WITHSCORES')
  for i = 1, #found, 2 do
    local job = read(found[i])
    unpark(executor, scope, job.id)
    if limit then redis.call('ZADD', window_of(executor, scope), found[i + 1], job.id) end
    make_ready(job, found[i + 1], now)
    wake_again(executor)
  end
end

local function let_in(scope, now)
  if not has_plans() then return end
  for _, executor in ipairs(redis.call('SMEMBERS', 'parked_on:' .. scope)) do let_in_on(executor, scope, now) end
end

-- A job starts or stops: what its scope has running.
local function tally_running(job, by)
  if job.listed then tally('running:scopes', job.scope, by) end
end

-- The queue ------------------------------------------------------------------------------------

local function tally_queued(job, by)
  for _, name in ipairs({'*', job.owner}) do
    tally('queued:jobs', name, by)
    tally('queued:bytes', name, by * job.bytes)
  end
end

-- Gives 'ready', or 'parked' when the job waits for its scope's quota.
local function enqueue(job, now)
  local order = job.sequence - job.priority * PRIORITY_STEP
  redis.call('ZADD', 'arrivals:' .. job.executor, job.created, job.id)
  tally_queued(job, 1)
  if job.session ~= '' then session_waits(job, order) end
  if job.handed_from ~= '' then
    redis.call('ZADD', 'handed_over:' .. job.executor, job.created, job.id)
    redis.call('SADD', 'handed_over', job.executor)
  end
  local limit = running_quota(job)
  if limit then
    local is_full = room(job.executor, job.scope, limit) < 1
    if is_full or redis.call('EXISTS', parked_of(job.executor, job.scope)) == 1 then
      park(job, order, now)
      return 'parked'
    end
    redis.call('ZADD', window_of(job.executor, job.scope), order, job.id)
  end
  make_ready(job, order, now)
  return 'ready'
end

local function dequeue(job, now)
  redis.call('ZREM', 'arrivals:' .. job.executor, job.id)
  tally_queued(job, -1)
  if job.session ~= '' then redis.call('ZREM', 'session:' .. job.session .. ':ready', job.id) end
  if job.handed_from ~= '' then redis.call('ZREM', 'handed_over:' .. job.executor, job.id) end
  if has_plans() and unpark(job.executor, job.scope, job.id) then return end
  leave_ready(job)
  if has_plans() and redis.call('ZREM', window_of(job.executor, job.scope), job.id) == 1 then
    let_in_on(job.executor, job.scope, now)
  end
end

-- The job that is next on this executor and may run, taken out of the queue.
local function pop(executor, now)
  for _ = 1, PARKED_AT_ONCE do
    local id, tag = next_dedicated(executor, now), nil
    if not id then
      local first = redis.call('ZRANGE', 'ready:' .. executor, 0, 0, 'WITHSCORES')
      if #first == 0 then return nil end
      tag = tonumber(first[2])
      id = redis.call('ZRANGE', 'ready:' .. executor .. ':' .. first[1], 0, 0)[1]
    end
    local job = read(id)
    local limit = running_quota(job)
    if not limit or running_of(job.scope) < limit then
      if tag then redis.call('SET', 'clock:' .. executor, integer(tag)) end
      job.charged = charge(executor, job.owner, QUANTUM_MS, 0)
      tally_running(job, 1)
      dequeue(job, now)
      return job
    end
    -- It became ready while less was running, maybe on another executor.
    leave_ready(job)
    redis.call('ZREM', window_of(executor, job.scope), id)
    park(job, job.sequence - job.priority * PRIORITY_STEP, now)
  end
end

-- The executors that live, as a set.
local function served()
  local names = {}
  for _, worker in ipairs(redis.call('ZRANGE', 'workers', 0, -1)) do
    local report = redis.call('GET', 'worker:' .. worker)
    for _, name in ipairs(report and cjson.decode(report).executors or {}) do names[name] = true end
  end
  return names
end

-- Transitions ----------------------------------------------------------------------------------

-- The scope has used so much of the machines; kept by day.
local function use(scope, run_ms, now)
  local key, today = 'usage:' .. scope, math.floor(now / DAY_MS)
  redis.call('HINCRBY', key, today, integer(run_ms))
  if redis.call('HLEN', key) <= USAGE_DAYS then return end
  for _, day in ipairs(redis.call('HKEYS', key)) do
    if tonumber(day) <= today - USAGE_DAYS then redis.call('HDEL', key, day) end
  end
end

-- What the scope has used in so many days, today included, and, when that is `most` or more, in how long it
-- will be less.
local function used_ms(scope, days, most, now)
  local first, used, counted = math.floor(now / DAY_MS) - days + 1, 0, {}
  for i = 1, days do counted[i] = first + i - 1 end
  local by_day = redis.call('HMGET', 'usage:' .. scope, unpack(counted))
  for i = 1, days do used = used + number(by_day[i], 0) end
  if used < most then return used end
  local left = used
  for i = 1, days do
    left = left - number(by_day[i], 0)
    if left < most or i == days then return used, (first + i - 1 + days) * DAY_MS - now end
  end
end

-- Running → not running, whatever comes next. Gives the run time in ms.
local function stop_running(job, now)
  redis.call('ZREM', 'leases', job.id)
  redis.call('HINCRBY', 'running', job.executor, -1)
  tally_running(job, -1)
  local held = 'held:' .. job.holder
  if redis.call('GET', held) == job.id then redis.call('DEL', held) end
  local run_ms = math.max(now - job.started, 1)
  charge(job.executor, job.owner, run_ms - QUANTUM_MS, job.charged)
  use(job.scope, run_ms, now)
  redis.call('HINCRBY', 'job:' .. job.id, 'run_ms', integer(run_ms))
  if job.session ~= '' and redis.call('EXISTS', 'session:' .. job.session) == 1 then
    redis.call('HINCRBY', 'session:' .. job.session, 'running', -1)
    redis.call('HINCRBY', 'session:' .. job.session, 'run_ms', integer(run_ms))
  end
  return run_ms
end

-- To a final state. The caller has checked that the job is not final and not stale.
local function finalise(job, status, failure, reason_code, retention_ms, now)
  local keep_ms = job.listed and retention_ms or math.min(retention_ms, UNLISTED_RETENTION_MS)
  if job.status == 'Running' then
    observe('job_run_seconds', job.executor, stop_running(job, now))
    let_in(job.scope, now)
  else
    dequeue(job, now)
  end
  redis.call('HSET', 'job:' .. job.id, 'status', status, 'finished', integer(now),
    'failure', failure, 'reason_code', reason_code)
  keep(job, #failure)
  redis.call('HINCRBY', 'job:' .. job.id, 'commits', 1)
  if job.listed then
    redis.call('ZREM', 'jobs:' .. job.scope .. ':state:pending', job.id)
    redis.call('ZADD', 'jobs:' .. job.scope .. ':state:final', job.arrival, job.id)
    count(1, 'jobs_finished_total', status, job.executor)
  end
  redis.call('ZADD', 'expiry', now + keep_ms, job.id)
  if job.session ~= '' then session_settles(job.session, now, retention_ms) end
  redis.call('PUBLISH', 'done', job.id)
end

-- Queued or running → cancelled; the sandbox that runs it is told.
local function cancel(job, failure, retention_ms, now)
  finalise(job, 'Cancelled', failure, '', retention_ms, now)
  if job.status == 'Running' then redis.call('PUBLISH', 'cancel', job.holder .. ' ' .. job.id) end
end

-- Cancels queued jobs of a session, `most` of them. Gives how many are left.
local function cancel_queued(of, failure, retention_ms, most, now)
  local ready = 'session:' .. of.id .. ':ready'
  for _, id in ipairs(redis.call('ZRANGE', ready, 0, most - 1)) do
    cancel(read(id), failure, retention_ms, now)
  end
  return redis.call('ZCARD', ready)
end

-- To the queue of its executor, at its place there. The caller has stopped it.
local function requeue(job, now)
  redis.call('HSET', 'job:' .. job.id, 'status', 'Queued')
  redis.call('HDEL', 'job:' .. job.id, 'holder', 'started', 'charged')
  enqueue(job, now)
  let_in(job.scope, now)
end

-- Running → Queued, or → Failed when it was tried too often. `kind` is `crash` (its sandbox died: the
-- job goes to the end of the queue, or one poison job would starve the pool), `lost` (its worker went
-- silent: the job keeps its place) or `returned` (its worker stops: likewise, and nobody is to blame, so it
-- never fails, and the claim is none of its attempts). Gives the new status.
local function give_back(job, kind, failure, limits, now)
  local crashes = job.crashes
  if kind == 'crash' then crashes = redis.call('HINCRBY', 'job:' .. job.id, 'crashes', 1) end
  local tries = job.attempt - job.handed_over - job.returned
  if kind == 'returned' then
    redis.call('HINCRBY', 'job:' .. job.id, 'returned', 1)
  elseif crashes >= limits.max_crashes or tries >= limits.max_attempts then
    finalise(job, 'Failed', failure, '', limits.retention_ms, now)
    redis.call('LPUSH', 'dead', job.id)
    redis.call('LTRIM', 'dead', 0, DEAD_KEPT - 1)
    count(1, 'jobs_dead_total')
    return 'Failed'
  end
  stop_running(job, now)
  if kind == 'crash' then
    job.sequence = next_sequence(now)
    redis.call('HSET', 'job:' .. job.id, 'sequence', integer(job.sequence))
  end
  requeue(job, now)
  count(1, 'jobs_requeued_total', kind)
  return 'Queued'
end

-- Deletion -------------------------------------------------------------------------------------
-- Chunks are unlinked: to free a hundred jobs' at once would hold up everybody.

local function erase_result(id, attempt, chunks)
  for chunk = 0, chunks - 1 do redis.call('UNLINK', 'result:' .. id .. ':' .. attempt .. ':' .. chunk) end
end

-- Everything of a final job.
local function erase(id)
  local job = read(id)
  redis.call('ZREM', 'expiry', id)
  if not job then return end
  local chunks = redis.call('HMGET', 'job:' .. id, 'params_chunks', 'result_chunks', 'taken_chunks')
  for chunk = 0, number(chunks[1], 0) - 1 do redis.call('UNLINK', 'params:' .. id .. ':' .. chunk) end
  erase_result(id, job.attempt, math.max(number(chunks[2], 0), number(chunks[3], 0)))
  redis.call('DEL', 'job:' .. id, 'log:' .. id, 'provenance:' .. id)
  tally_kept(job, -job.kept)
  if job.listed then unlist(job) end
end

local function erase_session(of)
  redis.call('DEL', 'session:' .. of.id, 'session:' .. of.id .. ':ready')
  redis.call('ZREM', 'sessions:' .. of.scope, of.id)
  redis.call('ZREM', 'workloads:' .. of.scope, 'session ' .. of.id)
  redis.call('ZREM', 'sessions:due', of.id)
end
