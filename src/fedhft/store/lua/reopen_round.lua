-- Collect a round again whose fold had too few updates left: those that were set aside may be sent anew.
-- EVALSHA sha 7 KEYS... ARGV...
-- KEYS  fence     counter, read: the current fencing token
--       round     hash, read and written: number, phase, deadline_ms, extensions, pinned
--       updates   hash, written: accepted updates of the round, without those that were set aside
--       aside     hash, read and deleted: client -> reason
--       tasks     counter and channel, written when reopened
--       progress  counter and channel, written when reopened
--       events    list, written: what happened to the job
-- ARGV  token, number, deadline_ms.
-- Returns {'ok'}, {'fenced'} or {'round_closed', state}.
local fence, round, updates, aside, tasks, progress, events = unpack(KEYS)
local token, number, deadline_ms = unpack(ARGV)
-- include: note_event

if redis.call('GET', fence) ~= token then
  return {'fenced'}
end
local now = redis.call('HMGET', round, 'number', 'phase')
if now[1] ~= number or now[2] ~= 'folding' then
  return {'round_closed', now[1] and ('round ' .. now[1] .. ' ' .. now[2]) or 'no round yet'}
end
for _, client in ipairs(redis.call('HKEYS', aside)) do
  redis.call('HDEL', updates, client)
end
redis.call('DEL', aside)
redis.call('HSET', round, 'phase', 'collecting', 'pinned', '', 'deadline_ms', deadline_ms)
redis.call('HINCRBY', round, 'extensions', 1)
note_event(events, 'reopened', number, '', 'too few updates were left')
redis.call('PUBLISH', tasks, redis.call('INCR', tasks))
redis.call('PUBLISH', progress, redis.call('INCR', progress))
return {'ok'}
