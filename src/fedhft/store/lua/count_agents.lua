-- How many agents are enrolled.
-- EVALSHA sha 1 KEYS... ARGV...
-- KEYS  agents   sorted set, read: client -> milliseconds when its record expires
-- Returns {count}.
local agents = KEYS[1]

local clock = redis.call('TIME')
local now_ms = string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000))
return {redis.call('ZCOUNT', agents, '(' .. now_ms, '+inf')}
