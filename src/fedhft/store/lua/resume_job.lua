-- Let a paused job go on: an open round gets the time back that passed meanwhile, failed attempts are forgotten.
-- EVALSHA sha 7 KEYS... ARGV...
-- KEYS  job        hash, read and written: paused, paused_ms
--       round      hash, read and written: phase, deadline_ms
--       attempts   hash, deleted: what was tried
--       tasks      counter and channel, written when resumed
--       arrivals   counter and channel, written when resumed
--       progress   counter and channel, written when resumed
--       events     list, written: what happened to the job
-- Returns {'ok', 1} when resumed, {'ok', 0} when it was not paused, {'unknown_job'}.
local job, round, attempts, tasks, arrivals, progress, events = unpack(KEYS)
-- include: note_event

if redis.call('EXISTS', job) == 0 then
  return {'unknown_job'}
end
local since_ms = redis.call('HGET', job, 'paused_ms')
if not since_ms then
  return {'ok', 0}
end
redis.call('HDEL', job, 'paused', 'paused_ms')
redis.call('DEL', attempts)
local clock = redis.call('TIME')
local away_ms = clock[1] * 1000 + math.floor(clock[2] / 1000) - tonumber(since_ms)
if away_ms > 0 and redis.call('HGET', round, 'phase') == 'collecting' then
  redis.call('HINCRBY', round, 'deadline_ms', string.format('%.0f', away_ms))
end
note_event(events, 'resumed', 0, '', '')
redis.call('PUBLISH', tasks, redis.call('INCR', tasks))
redis.call('PUBLISH', arrivals, redis.call('INCR', arrivals))
redis.call('PUBLISH', progress, redis.call('INCR', progress))
return {'ok', 1}
