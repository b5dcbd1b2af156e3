-- Note what a job waits for that is not its own, or that it no longer does.
-- EVALSHA sha 3 KEYS... ARGV...
-- KEYS  job        hash, read and written: blocked
--       progress   counter and channel, written when changed, for those who watch the job
--       events     list, written: what happened to the job
-- ARGV  reason; '' when the job goes on.
-- Returns {'ok', 1} when changed, {'ok', 0} when not (or there is no such job).
local job, progress, events = unpack(KEYS)
local reason = ARGV[1]
-- include: note_event

if redis.call('EXISTS', job) == 0 or (redis.call('HGET', job, 'blocked') or '') == reason then
  return {'ok', 0}
end
-- The deletion comes first: out of memory, Redis refuses a script that begins with a write that grows,
-- but not one that begins by deleting; and being out of memory is one of the reasons.
redis.call('HDEL', job, 'blocked')
if reason ~= '' then
  redis.call('HSET', job, 'blocked', reason)
end
note_event(events, reason == '' and 'unblocked' or 'blocked', 0, '', reason)
redis.call('PUBLISH', progress, redis.call('INCR', progress))
return {'ok', 1}
