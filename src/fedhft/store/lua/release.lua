-- Give the coordinator lease up, if held by the caller; its fencing token is worth nothing afterwards.
-- EVALSHA sha 2 KEYS... ARGV...
-- KEYS  lease   string with expiry, read and deleted: the holder
--       fence   counter, written: moves past the token that was given up
-- Returns {'ok'}.
local lease, fence = unpack(KEYS)
local holder = ARGV[1]

if redis.call('GET', lease) == holder then
  -- The deletion comes first: Redis out of memory refuses a script at a first write that grows, never at one that shrinks.
  redis.call('DEL', lease)
  redis.call('INCR', fence)
end
return {'ok'}
