-- Change a job's status if it is one of those expected.
-- EVALSHA sha 3 KEYS... ARGV...
-- KEYS  job        hash, read and written: status, reason
--       tasks      counter and channel, written when changed
--       arrivals   counter and channel, written when changed
-- ARGV  status, reason, then every expected status.
-- Returns {'ok', 1} when changed, {'ok', 0} when not, {'unknown_job'}.
local job, tasks, arrivals = unpack(KEYS)
local status, reason = ARGV[1], ARGV[2]

local now = redis.call('HGET', job, 'status')
if not now then
  return {'unknown_job'}
end
for i = 3, #ARGV do
  if ARGV[i] == now then
    redis.call('HSET', job, 'status', status, 'reason', reason)
    redis.call('PUBLISH', tasks, redis.call('INCR', tasks))
    redis.call('PUBLISH', arrivals, redis.call('INCR', arrivals))
    return {'ok', 1}
  end
end
return {'ok', 0}
