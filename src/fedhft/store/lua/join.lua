-- Add a client to a job, or replace its record.
-- EVALSHA sha 8 KEYS... ARGV...
-- KEYS  job          hash, read: whether the job exists
--       clients      hash, written: the client's record
--       seen         sorted set, written: it was heard from now
--       signatures   hash, written: its signature; '' removes it
--       halves       hash, written: the signatures of the halves of its rows; '' removes them
--       declines     hash, written: what it said when it would not join is removed
--       arrivals     counter and channel, written
--       events       list, written: what happened to its clients
-- Returns {'ok'} or {'unknown_job'}.
local job, clients, seen, signatures, halves, declines, arrivals, events = unpack(KEYS)
local client, record, signature, both = unpack(ARGV)
-- include: note_event

if redis.call('EXISTS', job) == 0 then
  return {'unknown_job'}
end
redis.call('HSET', clients, client, record)
redis.call('HDEL', declines, client)
local clock = redis.call('TIME')
redis.call('ZADD', seen, string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000)), client)
if signature == '' then
  redis.call('HDEL', signatures, client)
else
  redis.call('HSET', signatures, client, signature)
end
if both == '' then
  redis.call('HDEL', halves, client)
else
  redis.call('HSET', halves, client, both)
end
note_event(events, 'joined', 0, client, '')
redis.call('PUBLISH', arrivals, redis.call('INCR', arrivals))
return {'ok'}
