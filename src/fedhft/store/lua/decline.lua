-- Record why a client will not serve a job, unless it has joined it.
-- EVALSHA sha 3 KEYS... ARGV...
-- KEYS  job        hash, read: whether the job exists
--       clients    hash, read: whether the client has joined
--       declines   hash, written: the client's record
-- ARGV  client, reason.
-- Returns {'ok', 1}, {'ok', 0} when it has joined, or {'unknown_job'}.
local job, clients, declines = unpack(KEYS)
local client, reason = unpack(ARGV)

if redis.call('EXISTS', job) == 0 then
  return {'unknown_job'}
elseif redis.call('HEXISTS', clients, client) == 1 then
  return {'ok', 0}
end
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
redis.call('HSET', declines, client, cjson.encode({client = client, reason = reason, declined_ms = now_ms}))
return {'ok', 1}
