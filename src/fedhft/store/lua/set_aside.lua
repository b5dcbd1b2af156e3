-- Note updates of a round that its fold leaves out, and why. The first reason stands.
-- EVALSHA sha 3 KEYS... ARGV...
-- KEYS  fence   counter, read: the current fencing token
--       aside   hash with expiry, written: client -> reason
--       events  list, written: what happened to its clients
-- ARGV  token, ttl_s, number (of the round), then client and reason, in pairs.
-- Returns {'ok'} or {'fenced'}.
local fence, aside, events = unpack(KEYS)
local token, ttl_s, number = unpack(ARGV, 1, 3)
local FIRST_PAIR = 4
-- include: note_event

if redis.call('GET', fence) ~= token then
  return {'fenced'}
end
for i = FIRST_PAIR, #ARGV, 2 do
  if redis.call('HSETNX', aside, ARGV[i], ARGV[i + 1]) == 1 then
    note_event(events, 'set_aside', number, ARGV[i], ARGV[i + 1])
  end
end
redis.call('EXPIRE', aside, ttl_s)
return {'ok'}
