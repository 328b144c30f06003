#!lua
-- tag: gives a job other tags.
--
-- ARGV  1 scope, 2 id, 3 tags (JSON).
-- Gives 'tagged' or 'missing'. Somebody else's job is missing.

local job = read(ARGV[2])
if not job or job.scope ~= ARGV[1] then return 'missing' end
local tags = cjson.decode(ARGV[3])
local before = cjson.decode(job.tags)
redis.call('HSET', 'job:' .. job.id, 'tags', ARGV[3])
keep(job, (#tags - #before) * TAG_BYTES)
if not job.listed then return 'tagged' end
for _, tag in ipairs(before) do redis.call('ZREM', 'jobs:' .. job.scope .. ':tag:' .. tag, job.id) end
for _, tag in ipairs(tags) do
  redis.call('ZADD', 'jobs:' .. job.scope .. ':tag:' .. tag, job.arrival, job.id)
end
return 'tagged'
