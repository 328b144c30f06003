#!lua flags=allow-oom
-- revoke: refuses an API key from now on.
--
-- ARGV  1 id.
-- Gives 'revoked' or 'missing'. A key that is revoked stays revoked since then.

local key = 'apikey:' .. ARGV[1]
if redis.call('EXISTS', key) == 0 then return 'missing' end
redis.call('HSETNX', key, 'revoked', integer(now_ms()))
return 'revoked'
