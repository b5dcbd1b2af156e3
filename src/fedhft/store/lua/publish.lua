-- Publish a folded round, once: its version, its summary and its clients' byte counters.
-- EVALSHA sha 7 KEYS... ARGV...
-- KEYS  fence      counter, read: the current fencing token
--       round      hash, read and written: number, phase
--       versions   hash, written: the version's record, and which is the latest
--       history    list, written: the round's summary; entries older than those kept are dropped
--       traffic    hash, written: byte counters of the clients that reported
--       progress   counter and channel, written when published
--       events     list, written: what happened to the job
-- ARGV  token, number, version, record, summary, kept (entries that stay, this one among them; 0 for all); then client
--       and counters, in pairs.
-- Returns {'ok', 1} when published, {'ok', 0} when it already was, {'fenced'} or {'round_closed', state}.
local fence, round, versions, history, traffic, progress, events = unpack(KEYS)
local token, number, version, record, summary, kept = unpack(ARGV, 1, 6)
local FIRST_COUNTERS = 7
-- include: note_event

if redis.call('GET', fence) ~= token then
  return {'fenced'}
end
local now = redis.call('HMGET', round, 'number', 'phase')
if now[1] and (tonumber(now[1]) > tonumber(number) or (now[1] == number and now[2] == 'published')) then
  return {'ok', 0}
end
if now[1] ~= number or now[2] ~= 'folding' then
  return {'round_closed', now[1] and ('round ' .. now[1] .. ' ' .. now[2]) or 'no round yet'}
end
redis.call('HSET', versions, version, record, 'latest', version)
redis.call('RPUSH', history, summary)
if kept ~= '0' then
  redis.call('LTRIM', history, '-' .. kept, -1)
end
for i = FIRST_COUNTERS, #ARGV, 2 do
  redis.call('HSET', traffic, ARGV[i], ARGV[i + 1])
end
redis.call('HSET', round, 'phase', 'published')
local opened = redis.call('HMGET', round, 'pinned', 'asked', 'evaluation')
local _, delivered = string.gsub(opened[1] or '', '%S+', '')
note_event(events, opened[3] == '1' and 'evaluated' or 'published', number, '',
  string.format('%d of %s clients', delivered, opened[2] or '?'))
redis.call('PUBLISH', progress, redis.call('INCR', progress))
return {'ok', 1}
