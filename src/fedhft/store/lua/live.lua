-- Clients heard from lately.
-- EVALSHA sha 1 KEYS... ARGV...
-- KEYS  seen   sorted set, read: client -> milliseconds when last heard from
-- ARGV  within_ms.
-- Returns their ids, in no particular order.
local seen = KEYS[1]
local within_ms = ARGV[1]

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
return redis.call('ZRANGEBYSCORE', seen, string.format('%.0f', now - tonumber(within_ms)),
  string.format('%.0f', now + tonumber(within_ms)))
