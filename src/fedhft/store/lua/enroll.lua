-- Record an agent; keep its lease token if it shows the current one, else issue the new one.
-- EVALSHA sha 1 KEYS... ARGV...
-- KEYS  agent   hash with expiry, written: the agent's record
-- ARGV  shown, fresh, memory_bytes, agent_version, ttl_ms (never shortens what is left).
-- Returns {token, now_ms}.
local agent = KEYS[1]
local shown, fresh, memory_bytes, agent_version, ttl_ms = unpack(ARGV)

local clock = redis.call('TIME')
local now_ms = string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000))
local token = redis.call('HGET', agent, 'lease_token')
if not token or shown == '' or token ~= shown then
  token = fresh
end
redis.call('HSET', agent, 'lease_token', token, 'memory_bytes', memory_bytes,
  'agent_version', agent_version, 'last_seen_ms', now_ms)
if redis.call('PTTL', agent) < tonumber(ttl_ms) then
  redis.call('PEXPIRE', agent, ttl_ms)
end
return {token, now_ms}
