-- What several verbs do. Stands in front of each of them; holds no state.

-- Service that a claim is charged with until its real run time is known.
local QUANTUM_MS = 100
-- One step of priority outweighs any order of arrival.
local PRIORITY_STEP = 1e12
local DEAD_KEPT = 1000
-- A job that no list shows (a validation) has one reader, who is waiting for it.
local UNLISTED_RETENTION_MS = 60000

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

local function count(by, ...)
  redis.call('HINCRBY', 'stats', table.concat({...}, '|'), by)
end

local function observe(name, label, value_ms)
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

-- The fair queue (start-time fair queueing: Goyal, Vin, Cheng, SIGCOMM 1996) ---------------------
-- An owner's tag is the service it has consumed, never behind the virtual time `clock`. The owner
-- with the smallest tag is served next; who comes back after a pause starts at the clock, so that
-- nobody saves service up and nobody waits for another's backlog.

local function virtual_time(executor)
  return number(redis.call('GET', 'clock:' .. executor), 0)
end

local function charge(executor, owner, service_ms)
  local tag = math.max(
    number(redis.call('ZSCORE', 'service:' .. executor, owner), 0) + service_ms,
    virtual_time(executor))
  redis.call('ZADD', 'service:' .. executor, tag, owner)
  redis.call('ZADD', 'ready:' .. executor, 'XX', tag, owner)
end

local function enqueue(id, executor, owner, sequence, priority, created)
  redis.call('ZADD', 'ready:' .. executor .. ':' .. owner, sequence - priority * PRIORITY_STEP, id)
  redis.call('ZADD', 'arrivals:' .. executor, created, id)
  if not redis.call('ZSCORE', 'ready:' .. executor, owner) then
    redis.call('ZADD', 'ready:' .. executor, 0, owner)
    charge(executor, owner, 0)
  end
end

local function dequeue(id, executor, owner)
  local mine = 'ready:' .. executor .. ':' .. owner
  redis.call('ZREM', mine, id)
  redis.call('ZREM', 'arrivals:' .. executor, id)
  if redis.call('EXISTS', mine) == 0 then redis.call('ZREM', 'ready:' .. executor, owner) end
end

local function pop(executor)
  local first = redis.call('ZRANGE', 'ready:' .. executor, 0, 0, 'WITHSCORES')
  if #first == 0 then return nil end
  local owner, tag = first[1], tonumber(first[2])
  local id = redis.call('ZRANGE', 'ready:' .. executor .. ':' .. owner, 0, 0)[1]
  redis.call('SET', 'clock:' .. executor, integer(tag))
  charge(executor, owner, QUANTUM_MS)
  dequeue(id, executor, owner)
  return id
end

-- Transitions ----------------------------------------------------------------------------------

-- Running → not running, whatever comes next. Gives the run time in ms.
local function stop_running(id, job, now)
  redis.call('ZREM', 'leases', id)
  redis.call('HINCRBY', 'running', job.executor, -1)
  local held = 'held:' .. job.holder
  if redis.call('GET', held) == id then redis.call('DEL', held) end
  local run_ms = math.max(now - job.started, 1)
  charge(job.executor, job.owner, run_ms - QUANTUM_MS)
  return run_ms
end

local function read(id)
  local values = redis.call('HMGET', 'job:' .. id, 'status', 'attempt', 'owner', 'executor', 'holder',
    'started', 'created', 'sequence', 'priority', 'crashes', 'listed')
  if not values[1] then return nil end
  return {
    status = values[1], attempt = tonumber(values[2]), owner = values[3], executor = values[4],
    holder = values[5] or '', started = number(values[6], 0), created = tonumber(values[7]),
    sequence = tonumber(values[8]), priority = tonumber(values[9]), crashes = tonumber(values[10]),
    listed = values[11] == '1',
  }
end

-- To a final state. The caller has checked that the job is not final and not stale.
local function finalise(id, job, status, failure, reason_code, retention_ms, now)
  if job.status == 'Running' then
    observe('job_run_seconds', job.executor, stop_running(id, job, now))
  else
    dequeue(id, job.executor, job.owner)
  end
  redis.call('HSET', 'job:' .. id, 'status', status, 'finished', integer(now),
    'failure', failure, 'reason_code', reason_code)
  redis.call('HINCRBY', 'job:' .. id, 'commits', 1)
  if not job.listed then retention_ms = math.min(retention_ms, UNLISTED_RETENTION_MS) end
  redis.call('ZADD', 'expiry', now + retention_ms, id)
  if job.listed then count(1, 'jobs_finished_total', status, job.executor) end
  redis.call('PUBLISH', 'done', id)
end

-- Running → Queued, or → Failed when it was tried too often. `kind` is `crash` (its sandbox died: the
-- job goes to the end of the queue, or one poison job would starve the pool), `lost` (its worker went
-- silent: the job keeps its place) or `returned` (its worker stops: likewise, and nobody is to blame, so it
-- never fails). Gives the new status.
local function give_back(id, job, kind, failure, limits, now)
  local crashes = job.crashes
  if kind == 'crash' then crashes = redis.call('HINCRBY', 'job:' .. id, 'crashes', 1) end
  local often = crashes >= limits.max_crashes or job.attempt >= limits.max_attempts
  if kind ~= 'returned' and often then
    finalise(id, job, 'Failed', failure, '', limits.retention_ms, now)
    redis.call('LPUSH', 'dead', id)
    redis.call('LTRIM', 'dead', 0, DEAD_KEPT - 1)
    count(1, 'jobs_dead_total')
    return 'Failed'
  end
  stop_running(id, job, now)
  local sequence = job.sequence
  if kind == 'crash' then
    sequence = redis.call('INCR', 'sequence')
    redis.call('HSET', 'job:' .. id, 'sequence', integer(sequence))
  end
  redis.call('HSET', 'job:' .. id, 'status', 'Queued')
  redis.call('HDEL', 'job:' .. id, 'holder', 'started')
  enqueue(id, job.executor, job.owner, sequence, job.priority, job.created)
  count(1, 'jobs_requeued_total', kind)
  return 'Queued'
end
