-- What an agent's call about a job starts from, and a sign of life: lease, membership, the round. Creates no record.
-- EVALSHA sha 6 KEYS... ARGV...
-- KEYS  agent     hash with expiry, read and written (last_seen_ms): the agent's record
--       clients   hash, read: whether the client has joined
--       seen      sorted set, written: client -> milliseconds when last heard from, if it has joined
--       tasks     counter, read
--       round     hash, read: number, phase
--       agents    sorted set, written: client -> milliseconds when its record expires
--       and, named by prefix: updates (hash, read): whether the round has the client's update
-- ARGV  client, lease_token, updates_prefix, seen_every_ms, agent_ttl_ms.
-- Returns {'ok', one text: now_ms, joined, tasks, number (0 before the first round), phase, delivered, memory_bytes,
-- agent_version, separated by spaces}, {'not_enrolled'} or {'lease_superseded'}. (A client reads one text several times
-- faster than a list.)
local agent, clients, seen, tasks, round, agents = unpack(KEYS)
local client, shown, updates_prefix, seen_every_ms, agent_ttl_ms = unpack(ARGV)

local found = redis.call('HMGET', agent, 'lease_token', 'memory_bytes', 'agent_version')
if not found[1] then
  return {'not_enrolled'}
end
if found[1] ~= shown then
  return {'lease_superseded'}
end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local now_ms = string.format('%.0f', now)
local joined = redis.call('HEXISTS', clients, client)
if joined == 1 then
  local last = tonumber(redis.call('ZSCORE', seen, client) or 0)
  -- A clock that was set back must not silence everybody until it has caught up.
  if math.abs(now - last) >= tonumber(seen_every_ms) then
    -- pcall: a server that is out of memory must still answer, or agents could not even read.
    redis.pcall('ZADD', seen, now_ms, client)
    redis.pcall('HSET', agent, 'last_seen_ms', now_ms)
    redis.pcall('PEXPIRE', agent, agent_ttl_ms)
    redis.pcall('ZADD', agents, string.format('%.0f', now + tonumber(agent_ttl_ms)), client)
  end
end
local at = redis.call('HMGET', round, 'number', 'phase')
local delivered = 0
if at[1] then
  delivered = redis.call('HEXISTS', updates_prefix .. at[1], client)
end
return {'ok', table.concat({now_ms, joined, redis.call('GET', tasks) or 0, at[1] or 0, at[2] or '-', delivered,
  found[2], found[3]}, ' ')}
