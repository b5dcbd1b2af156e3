-- Change a job's status if the present one is expected.
-- EVALSHA sha 6 KEYS... ARGV...
-- KEYS  job        hash, read and written: status, reason
--       fence      counter, read: the current fencing token
--       tasks      counter and channel, written when changed
--       arrivals   counter and channel, written when changed
--       progress   counter and channel, written when changed
--       events     list, written: what happened to the job
-- ARGV  token ('' when none is required), status, reason, then every expected status.
-- Returns {'ok', 1} when changed, {'ok', 0} when not, {'unknown_job'}, {'fenced'}.
local job, fence, tasks, arrivals, progress, events = unpack(KEYS)
local token, status, reason = ARGV[1], ARGV[2], ARGV[3]
-- include: note_event

local now = redis.call('HGET', job, 'status')
if not now then
  return {'unknown_job'}
end
if token ~= '' and redis.call('GET', fence) ~= token then
  return {'fenced'}
end
for i = 4, #ARGV do
  if ARGV[i] == now then
    redis.call('HSET', job, 'status', status, 'reason', reason)
    note_event(events, status, 0, '', reason)
    redis.call('PUBLISH', tasks, redis.call('INCR', tasks))
    redis.call('PUBLISH', arrivals, redis.call('INCR', arrivals))
    redis.call('PUBLISH', progress, redis.call('INCR', progress))
    return {'ok', 1}
  end
end
return {'ok', 0}
