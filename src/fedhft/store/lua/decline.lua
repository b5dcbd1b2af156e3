-- Record why a client will not serve a job, unless it has joined it.
-- EVALSHA sha 4 KEYS... ARGV...
-- KEYS  job        hash, read: whether the job exists
--       clients    hash, read: whether the client has joined
--       declines   hash, read and written: the client's record
--       events     list, written: what happened to its clients
-- ARGV  client, reason.
-- Returns {'ok', 1}, {'ok', 0} when it has joined, or {'unknown_job'}.
local job, clients, declines, events = unpack(KEYS)
local client, reason = unpack(ARGV)
-- include: note_event

if redis.call('EXISTS', job) == 0 then
  return {'unknown_job'}
elseif redis.call('HEXISTS', clients, client) == 1 then
  return {'ok', 0}
end
local before = redis.call('HGET', declines, client)
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
redis.call('HSET', declines, client, cjson.encode({client = client, reason = reason, declined_ms = now_ms}))
local known, last = pcall(cjson.decode, before or '')
if not known or type(last) ~= 'table' or last.reason ~= reason then  -- an agent looks again every half hour
  note_event(events, 'declined', 0, client, reason)
end
return {'ok', 1}
