-- Clients heard from lately.
-- EVALSHA sha 1 KEYS... ARGV...
-- KEYS  seen   sorted set, read: client -> milliseconds when last heard from
-- ARGV  within_ms.
-- Returns their ids, in no particular order, a line each: one string of ten thousand names is read many times faster
-- than ten thousand strings.
local seen = KEYS[1]
local within_ms = ARGV[1]

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
return {table.concat(redis.call('ZRANGEBYSCORE', seen, string.format('%.0f', now - tonumber(within_ms)),
  string.format('%.0f', now + tonumber(within_ms))), '\n')}
