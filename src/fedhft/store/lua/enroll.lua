-- Record an agent: a new lease token for one that shows none, the same for one that shows the current one.
-- EVALSHA sha 3 KEYS... ARGV...
-- KEYS  agent     hash with expiry, written: the agent's record
--       revoked   hash, read: certificates that are no longer trusted
--       agents    sorted set, written: client -> milliseconds when its record expires; those that have are dropped
-- ARGV  shown, fresh, memory_bytes, agent_version, ttl_ms (never shortens what is left), serial (of the caller's
--       certificate; '' without one), client.
-- Returns {token, now_ms}, {'lease_superseded'} or {'certificate_revoked'}.
local agent, revoked, agents = unpack(KEYS)
local shown, fresh, memory_bytes, agent_version, ttl_ms, serial, client = unpack(ARGV)

if serial ~= '' and redis.call('HEXISTS', revoked, serial) == 1 then
  return {'certificate_revoked'}
end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local now_ms = string.format('%.0f', now)
local token = redis.call('HGET', agent, 'lease_token')
if token and shown ~= '' and token ~= shown then
  return {'lease_superseded'}
end
if not token or shown == '' then
  token = fresh
end
redis.call('HSET', agent, 'lease_token', token, 'memory_bytes', memory_bytes,
  'agent_version', agent_version, 'last_seen_ms', now_ms)
if redis.call('PTTL', agent) < tonumber(ttl_ms) then
  redis.call('PEXPIRE', agent, ttl_ms)
end
-- pcall: what is only counted keeps nobody out.
redis.pcall('ZREMRANGEBYSCORE', agents, '-inf', now_ms)
redis.pcall('ZADD', agents, string.format('%.0f', now + redis.call('PTTL', agent)), client)
return {token, now_ms}
