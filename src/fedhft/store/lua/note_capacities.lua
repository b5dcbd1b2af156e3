-- Keep what is known of the devices of a round's clients, each in place of what was.
-- EVALSHA sha 2 KEYS... ARGV...
-- KEYS  fence        counter, read: the current fencing token
--       capacities   hash, written: client -> estimate
-- ARGV  token, then client and estimate, in pairs.
-- Returns {'ok'} or {'fenced'}.
local fence, capacities = unpack(KEYS)
local FIRST_PAIR = 2

if redis.call('GET', fence) ~= ARGV[1] then
  return {'fenced'}
end
for i = FIRST_PAIR, #ARGV, 2 do
  redis.call('HSET', capacities, ARGV[i], ARGV[i + 1])
end
return {'ok'}
