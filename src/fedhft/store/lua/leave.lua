-- Remove a client from a job.
-- EVALSHA sha 6 KEYS... ARGV...
-- KEYS  clients      hash, written
--       seen         sorted set, written
--       signatures   hash, written
--       halves       hash, written
--       arrivals     counter and channel, written when the client was there
--       events       list, written: what happened to its clients
-- ARGV  client, reason.
-- Returns {'ok', 1}, or {'ok', 0} when it was not there.
local clients, seen, signatures, halves, arrivals, events = unpack(KEYS)
local client, reason = unpack(ARGV)
-- include: note_event

-- The deletion comes first: out of memory, Redis refuses a script that begins with a write that grows,
-- but not one that begins by deleting.
if redis.call('HDEL', clients, client) == 0 then
  return {'ok', 0}
end
redis.call('ZREM', seen, client)
redis.call('HDEL', signatures, client)
redis.call('HDEL', halves, client)
note_event(events, 'left', 0, client, reason)
redis.call('PUBLISH', arrivals, redis.call('INCR', arrivals))
return {'ok', 1}
