-- Create a job in status waiting, unless it exists.
-- EVALSHA sha 5 KEYS... ARGV...
-- KEYS  job      hash, read and written: spec, status, reason, created_ms, submitted_by, schema_pinned
--       jobs     list, written: ids of all jobs in order of creation
--       schema   string, read and written: the schema that the job is created with, if any
--       events   list, written: what happened to the job
--       versions hash, read and written: version 0 of a job with a warm start
-- ARGV  pinned is that schema, or empty; start the record of version 0, or empty.
-- Returns {'ok', 1} when created, {'ok', 0} when the identical job exists, {'job_exists'} when another has the id.
local job, jobs, schema, events, versions = unpack(KEYS)
local id, spec, submitted_by, pinned, start = unpack(ARGV)
-- include: note_event

local stored = redis.call('HGET', job, 'spec')
local first = start ~= '' and stored and redis.call('HGET', versions, '0')
if stored == spec and (pinned == '' or redis.call('GET', schema) == pinned) and (not first or first == start) then
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
if start ~= '' then
  redis.call('HSET', versions, '0', start, 'latest', '0')
end
redis.call('RPUSH', jobs, id)
note_event(events, 'submitted', 0, '', submitted_by)
return {'ok', 1}
