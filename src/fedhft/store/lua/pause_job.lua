-- Pause a job that is not over. A paused job stays as it is: nothing opens, closes, or runs out of time.
-- EVALSHA sha 5 KEYS... ARGV...
-- KEYS  job        hash, read and written: status, paused (the reason), paused_ms
--       tasks      counter and channel, written when paused
--       arrivals   counter and channel, written when paused
--       progress   counter and channel, written when paused
--       events     list, written: what happened to the job
-- Returns {'ok', 1} when paused now, {'ok', 0} when it was already or is over, {'unknown_job'}.
local job, tasks, arrivals, progress, events = unpack(KEYS)
local reason = ARGV[1]
-- include: note_event

local now = redis.call('HMGET', job, 'status', 'paused')
if not now[1] then
  return {'unknown_job'}
end
if now[2] or (now[1] ~= 'waiting' and now[1] ~= 'running' and now[1] ~= 'evaluating') then
  return {'ok', 0}
end
local clock = redis.call('TIME')
local now_ms = string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000))
redis.call('HSET', job, 'paused', reason, 'paused_ms', now_ms)
note_event(events, 'paused', 0, '', reason)
redis.call('PUBLISH', tasks, redis.call('INCR', tasks))
redis.call('PUBLISH', arrivals, redis.call('INCR', arrivals))
redis.call('PUBLISH', progress, redis.call('INCR', progress))
return {'ok', 1}
