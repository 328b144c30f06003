#!lua flags=allow-oom
-- reap: what the passing of time asks for. Every worker runs it every second; there is no leader.
--
-- ARGV  1 lease ms, 2 max attempts, 3 max crashes, 4 retention ms, 5 failure (JSON) of a job lost too often,
--       6 ms after which a silent worker is forgotten, 7 most jobs handled in one go, 8 cap of wake-ups,
--       9 failure (JSON) of a job whose session has run out, then executor, wake-up message of every executor this worker serves.
-- Gives {jobs given back or failed, wake-ups pushed, jobs deleted}.
-- If nobody reaped for half a lease, Redis or everybody was away: then no lease is judged, each gets a
-- fresh term. So it is if the clock was set back: the leases of the dead would last for as long as that.

local now, lease, most = now_ms(), tonumber(ARGV[1]), tonumber(ARGV[7])
local last = number(redis.call('GET', 'reaper:tick'), 0)
redis.call('SET', 'reaper:tick', integer(now))

local reaped = 0
local set_back = now < last
if now - last > lease / 2 or set_back then
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', 'leases', '-inf', set_back and '+inf' or now + lease)) do
    redis.call('ZADD', 'leases', now + lease, id)
  end
else
  local limits = {
    max_attempts = tonumber(ARGV[2]), max_crashes = tonumber(ARGV[3]), retention_ms = tonumber(ARGV[4]),
  }
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', 'leases', '-inf', now, 'LIMIT', 0, most)) do
    give_back(read(id), 'lost', ARGV[5], limits, now)
    reaped = reaped + 1
  end
  if reaped > 0 then count(reaped, 'leases_reaped_total') end
end

local deleted = redis.call('ZRANGEBYSCORE', 'expiry', '-inf', now, 'LIMIT', 0, most)
for _, id in ipairs(deleted) do erase(id) end

local function end_of_time(of)
  redis.call('HSET', 'session:' .. of.id, 'accepting', '0', 'reason', 'max_ttl')
  if cancel_queued(of, ARGV[9], tonumber(ARGV[4]), most, now) > 0 then return end
  of = session(of.id)
  if of.state == 'closed' then return end
  if of.running > 0 then look_at(of.id, now + SESSION_LOOK_MS) else close(of, now, tonumber(ARGV[4])) end
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', 'sessions:due', '-inf', now, 'LIMIT', 0, most)) do
  local of = session(id)
  if not of then
    redis.call('ZREM', 'sessions:due', id)
  elseif of.state == 'closed' then
    erase_session(of)
  elseif now >= deadline(of) then
    end_of_time(of)
  else
    if of.state == 'active' then enter_state(of, 'inactive', now) end
    look_at(id, deadline(of))
  end
end

-- Jobs that wait for an executor that no worker serves any more go back to who has chosen it.
local function take_back(live)
  for _, executor in ipairs(redis.call('SMEMBERS', 'handed_over')) do
    local waiting = 'handed_over:' .. executor
    for _, id in ipairs(live[executor] and {} or redis.call('ZRANGE', waiting, 0, most - 1)) do
      local job = read(id)
      dequeue(job, now)
      redis.call('HSET', 'job:' .. id, 'executor', job.handed_from)
      redis.call('HDEL', 'job:' .. id, 'handed_from', 'choice')
      job.executor, job.handed_from = job.handed_from, ''
      enqueue(job, now)
    end
    if redis.call('EXISTS', waiting) == 0 then redis.call('SREM', 'handed_over', executor) end
  end
end

if redis.call('EXISTS', 'handed_over') == 1 then take_back(served()) end

-- A quota may have grown since jobs were parked.
for _, scope in ipairs(redis.call('ZRANGE', 'parked_scopes', 0, most - 1)) do
  redis.call('ZADD', 'parked_scopes', now, scope)
  let_in(scope, now)
end

redis.call('ZREMRANGEBYSCORE', 'workers', '-inf', now - tonumber(ARGV[6]))

local pushed, cap = 0, tonumber(ARGV[8])
for i = 10, #ARGV, 2 do
  local executor, message = ARGV[i], ARGV[i + 1]
  if has_plans() then redis.call('HSET', 'wakeups', executor, cap .. ' ' .. message) end
  redis.call('ZREMRANGEBYSCORE', 'service:' .. executor, '-inf', '(' .. integer(virtual_time(executor)))
  local parked = number(redis.call('HGET', 'parked_jobs', executor), 0)
  local wanted = math.min(redis.call('ZCARD', 'arrivals:' .. executor) - parked, cap)
  local topped_up = 0
  while redis.call('LLEN', executor) < wanted and wake(executor, message, cap) do
    topped_up = topped_up + 1
  end
  if topped_up > 0 then count(topped_up, 'wakeups_topped_up_total', executor) end
  pushed = pushed + topped_up
end
return {reaped, pushed, #deleted}
