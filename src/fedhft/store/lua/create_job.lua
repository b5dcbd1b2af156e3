-- Create a job in status waiting, unless it exists.
-- EVALSHA sha 4 KEYS... ARGV...
-- KEYS  job      hash, read and written: spec, status, reason, created_ms, submitted_by, schema_pinned
--       jobs     list, written: ids of all jobs in order of creation
--       schema   string, read and written: the schema that the job is created with, if any
--       events   list, written: what happened to the job
-- ARGV  pinned is that schema, or empty.
-- Returns {'ok', 1} when created, {'ok', 0} when the identical job exists, {'job_exists'} when another has the id.
local job, jobs, schema, events = unpack(KEYS)
local id, spec, submitted_by, pinned = unpack(ARGV)
-- include: note_event

local stored = redis.call('HGET', job, 'spec')
if stored == spec and (pinned == '' or redis.call('GET', schema) == pinned) then
  return {'ok', 0}
elseif stored then
  return {'job_exists'}
end
local clock = redis.call('TIME')
local now_ms = string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000))
redis.call('HSET', job, 'spec', spec, 'status', 'waiting', 'reason', '', 'created_ms', now_ms,
  'submitted_by', submitted_by, 'schema_pinned', pinned == '' and '0' or '1')
if pinned ~= '' then
  redis.call('SET', schema, pinned)
end
redis.call('RPUSH', jobs, id)
note_event(events, 'submitted', 0, '', submitted_by)
return {'ok', 1}
