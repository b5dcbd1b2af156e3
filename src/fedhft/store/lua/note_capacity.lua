-- Keep what is known of one client's device, in place of what was.
-- EVALSHA sha 2 KEYS... ARGV...
-- KEYS  job          hash, read: whether the job exists
--       capacities   hash, written: client -> estimate
-- ARGV  client, estimate.
-- Returns {'ok'} or {'unknown_job'}.
local job, capacities = unpack(KEYS)
local client, estimate = unpack(ARGV)

if redis.call('EXISTS', job) == 0 then
  return {'unknown_job'}
end
redis.call('HSET', capacities, client, estimate)
return {'ok'}
