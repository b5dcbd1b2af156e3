-- Create a job in status waiting, unless it exists.
-- EVALSHA sha 2 KEYS... ARGV...
-- KEYS  job    hash, read and written: spec, status, reason, created_ms, submitted_by
--       jobs   list, written: ids of all jobs in order of creation
-- Returns {'ok', 1} when created, {'ok', 0} when the identical job exists, {'job_exists'} when another has the id.
local job, jobs = unpack(KEYS)
local id, spec, submitted_by = unpack(ARGV)

local stored = redis.call('HGET', job, 'spec')
if stored == spec then
  return {'ok', 0}
elseif stored then
  return {'job_exists'}
end
local clock = redis.call('TIME')
local now_ms = string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000))
redis.call('HSET', job, 'spec', spec, 'status', 'waiting', 'reason', '', 'created_ms', now_ms,
  'submitted_by', submitted_by)
redis.call('RPUSH', jobs, id)
return {'ok', 1}
