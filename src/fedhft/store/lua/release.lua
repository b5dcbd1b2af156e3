-- Give up the coordinator lease if the caller holds it; its fencing token is no longer valid.
-- EVALSHA sha 2 KEYS... ARGV...
-- KEYS  lease   string with expiry, read and deleted: the holder
--       fence   counter, written: moves past the token that was given up
-- Returns {'ok'}.
local lease, fence = unpack(KEYS)
local holder = ARGV[1]

if redis.call('GET', lease) == holder then
  -- The deletion comes first: out of memory, Redis refuses a script that begins with a write that grows,
  -- but not one that begins by deleting.
  redis.call('DEL', lease)
  redis.call('INCR', fence)
end
return {'ok'}
