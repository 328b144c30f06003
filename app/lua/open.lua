#!lua
-- open: makes a session.
--
-- ARGV  1 id, 2 scope, 3 executor, 4 backend, 5 mode, 6 max ttl ms, 7 interactive ttl ms, 8 most sessions of the
--       scope, kept ones included.
-- Gives {'opened', field, value, … of the record} or {'full', number}. Safe to repeat: a known id changes nothing.

local id, scope = ARGV[1], ARGV[2]
local key = 'session:' .. id
if redis.call('EXISTS', key) == 0 then
  local kept = redis.call('ZCARD', 'sessions:' .. scope)
  if kept >= tonumber(ARGV[8]) then return {'full', integer(kept)} end
  local now = now_ms()
  local arrival = integer(next_sequence(now))
  redis.call('HSET', key, 'scope', scope, 'executor', ARGV[3], 'backend', ARGV[4], 'mode', ARGV[5],
    'max_ttl_ms', ARGV[6], 'interactive_ttl_ms', ARGV[7], 'state', 'open', 'accepting', '1', 'running', 0,
    'active_ms', 0, 'run_ms', 0, 'created', integer(now), 'arrival', arrival,
    'history', 'open ' .. integer(now) .. ';')
  redis.call('ZADD', 'sessions:' .. scope, arrival, id)
  redis.call('ZADD', 'workloads:' .. scope, arrival, 'session ' .. id)
  look_at(id, now + tonumber(ARGV[6]))
end
return {'opened', unpack(redis.call('HGETALL', key))}
