-- Move the deadline of a collecting round, and count the extension if it is one. The same deadline again changes nothing.
-- EVALSHA sha 3 KEYS... ARGV...
-- KEYS  fence   counter, read: the current fencing token
--       round   hash, read and written: number, phase, deadline_ms, extensions
--       events  list, written: what happened to the job
-- Returns {'ok'}, {'fenced'} or {'round_closed', state}.
local fence, round, events = unpack(KEYS)
local token, number, deadline_ms, counted = unpack(ARGV)
-- include: note_event

if redis.call('GET', fence) ~= token then
  return {'fenced'}
end
local now = redis.call('HMGET', round, 'number', 'phase', 'deadline_ms')
if now[1] ~= number or now[2] ~= 'collecting' then
  return {'round_closed', now[1] and ('round ' .. now[1] .. ' ' .. now[2]) or 'no round yet'}
end
if now[3] ~= deadline_ms then
  redis.call('HSET', round, 'deadline_ms', deadline_ms)
  if counted == '1' then
    redis.call('HINCRBY', round, 'extensions', 1)
    note_event(events, 'extended', number, '', '')
  end
end
return {'ok'}
