#!lua flags=allow-oom
-- list: some jobs of a scope, by order of arrival.
--
-- ARGV  1 scope, 2 and 3 lowest and highest arrival (as ZRANGEBYSCORE takes them), 4 'ASC' or 'DESC',
--       5 offset, 6 limit, then names of the indexes that a job must be in.
-- Gives {number of all that match, id, arrival, …}.
-- Several indexes are intersected: that costs as many steps as the smallest of them has jobs.

local all = 'jobs:' .. ARGV[1]
local wanted = {}
for i = 7, #ARGV do wanted[#wanted + 1] = all .. ':' .. ARGV[i] end
local from = wanted[1] or all
if #wanted > 1 then
  from = all .. ':intersection'
  local count_of_keys = #wanted
  wanted[#wanted + 1] = 'AGGREGATE'
  wanted[#wanted + 1] = 'MIN'
  redis.call('ZINTERSTORE', from, count_of_keys, unpack(wanted))
end
local total = redis.call('ZCOUNT', from, ARGV[2], ARGV[3])
local found
if ARGV[4] == 'ASC' then
  found = redis.call('ZRANGEBYSCORE', from, ARGV[2], ARGV[3], 'WITHSCORES', 'LIMIT', ARGV[5], ARGV[6])
else
  found = redis.call('ZREVRANGEBYSCORE', from, ARGV[3], ARGV[2], 'WITHSCORES', 'LIMIT', ARGV[5], ARGV[6])
end
if #wanted > 1 then redis.call('DEL', from) end
return {total, unpack(found)}
