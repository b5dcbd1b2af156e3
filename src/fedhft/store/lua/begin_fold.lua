-- Stop collecting and pin the accepted clients; return the same ones again when already folding.
-- EVALSHA sha 4 KEYS... ARGV...
-- KEYS  fence     counter, read: the current fencing token
--       round     hash, read and written: number, phase, pinned
--       updates   hash, read: accepted updates of the round
--       progress  counter and channel, written when pinned
-- Returns {'ok', client ids separated by spaces, in no particular order}, {'fenced'} or {'round_closed', state}.
-- (Sorting is left to the caller: Lua here compares strings by the server's locale.)
local fence, round, updates, progress = unpack(KEYS)
local token, number = unpack(ARGV)

if redis.call('GET', fence) ~= token then
  return {'fenced'}
end
local now = redis.call('HMGET', round, 'number', 'phase', 'pinned')
if now[1] == number and now[2] == 'folding' then
  return {'ok', now[3]}
end
if now[1] ~= number or now[2] ~= 'collecting' then
  return {'round_closed', now[1] and ('round ' .. now[1] .. ' ' .. now[2]) or 'no round yet'}
end
local pinned = table.concat(redis.call('HKEYS', updates), ' ')
redis.call('HSET', round, 'phase', 'folding', 'pinned', pinned)
redis.call('PUBLISH', progress, redis.call('INCR', progress))
return {'ok', pinned}
