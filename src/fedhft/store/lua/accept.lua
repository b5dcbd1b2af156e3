-- Record an update durably, or say why not. The order of the checks is the one that Store.accept promises.
-- EVALSHA sha 9 KEYS... ARGV...
-- KEYS  job            hash, read: status
--       agent          hash, read: lease_token
--       round          hash, read: number, phase, base_version, target, evaluation
--       participants   set, read: clients that take part in the round
--       updates        hash, read and written: accepted updates of the update's round
--       blob           string, read: whether the update's bytes are there; written when they are given
--       blobs          sorted set, written with it: digest -> milliseconds when last stored
--       deliveries     hash, written: counts the client's accepted updates, final evaluations not counted
--       arrivals       counter and channel, written when the round has as many updates as it waits for
-- ARGV  blob_state is 'look' (at the key), 'data' (the bytes follow, as the last argument), or 'present' or 'absent' when
--       the caller looked elsewhere or needs none.
-- Returns {'accepted'}, {'repeated'} or {refusal, detail}.
local job, agent, round, participants, updates, blob, blobs, deliveries, arrivals = unpack(KEYS)
local client, number, base_version, digest, record, lease_token, blob_state, data = unpack(ARGV)

local status = redis.call('HGET', job, 'status')
if not status then
  return {'unknown_job'}
elseif status ~= 'running' and status ~= 'evaluating' then
  return {'job_not_running', status}
end
local token = redis.call('HGET', agent, 'lease_token')
if not token then
  return {'not_enrolled'}
elseif token ~= lease_token then
  return {'lease_superseded'}
end
local now = redis.call('HMGET', round, 'number', 'phase', 'base_version', 'target', 'evaluation')
if now[1] ~= number then
  return {'round_closed', now[1] and ('round ' .. now[1] .. ' ' .. now[2]) or 'no round yet'}
end
if redis.call('SISMEMBER', participants, client) == 0 then
  return {'not_participant'}
end
local recorded = redis.call('HGET', updates, client)
if recorded then
  if cjson.decode(recorded).digest == digest then
    return {'repeated'}
  end
  return {'update_conflict'}
end
if now[2] ~= 'collecting' then
  return {'round_closed', 'round ' .. now[1] .. ' ' .. now[2]}
end
if now[3] ~= base_version then
  return {'stale_version', now[3]}
end
if blob_state == 'absent' or (blob_state == 'look' and redis.call('EXISTS', blob) == 0) then
  return {'unknown_blob'}
end
if blob_state == 'data' then
  if redis.call('EXISTS', blob) == 0 then
    redis.call('SET', blob, data)
  end
  local clock = redis.call('TIME')
  redis.call('ZADD', blobs, string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000)), digest)
end
redis.call('HSET', updates, client, record)
if now[5] ~= '1' then
  redis.call('HINCRBY', deliveries, client, 1)
end
-- Until then the coordinator waits for its deadline. (A round that an earlier release opened has no target here.)
if redis.call('HLEN', updates) >= tonumber(now[4] or 0) then
  redis.call('PUBLISH', arrivals, redis.call('INCR', arrivals))
end
return {'accepted'}
