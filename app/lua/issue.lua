#!lua
-- issue: stores a new API key, and the instance it is made for.
--
-- ARGV  1 id, 2 owner, 3 name, 4 digest, 5 instance,
--       6 plan of the instance; '': the one it has, or 7 default plan,
--       8 '1': only if there has never been a key.
-- Gives 1, or 0 when nothing was stored. The same call again changes nothing and gives 1.

local id, owner, instances = ARGV[1], ARGV[2], 'instances:' .. ARGV[2]
if redis.call('HGET', 'apikey:' .. id, 'digest') == ARGV[4] then return 1 end
if ARGV[8] == '1' and redis.call('EXISTS', 'apikeys') == 1 then return 0 end
local now = now_ms()
redis.call('HSET', 'apikey:' .. id, 'owner', owner, 'name', ARGV[3], 'digest', ARGV[4], 'created', integer(now))
redis.call('ZADD', 'apikeys', now, id)
if ARGV[6] ~= '' then
  redis.call('HSET', instances, ARGV[5], ARGV[6])
else
  redis.call('HSETNX', instances, ARGV[5], ARGV[7])
end
return 1
