-- Heartbeat of an agent: check its token and record when it was seen. Never creates a record.
-- EVALSHA sha 1 KEYS... ARGV...
-- KEYS  agent   hash, read and written (last_seen_ms): the agent's record
-- Returns {'ok', memory_bytes, agent_version, now_ms} or {'not_enrolled'} or {'lease_superseded'}.
local agent = KEYS[1]
local shown = ARGV[1]

local found = redis.call('HMGET', agent, 'lease_token', 'memory_bytes', 'agent_version')
if not found[1] then
  return {'not_enrolled'}
end
if found[1] ~= shown then
  return {'lease_superseded'}
end
local clock = redis.call('TIME')
local now_ms = string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000))
-- pcall: a server that is out of memory must still answer heartbeats, or agents could not even read.
redis.pcall('HSET', agent, 'last_seen_ms', now_ms)
return {'ok', found[2], found[3], now_ms}
