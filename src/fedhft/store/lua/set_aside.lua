-- Note updates of a round that its fold leaves out, and why. The first reason stands.
-- EVALSHA sha 2 KEYS... ARGV...
-- KEYS  fence   counter, read: the current fencing token
--       aside   hash with expiry, written: client -> reason
-- ARGV  token, ttl_s, then client and reason, in pairs.
-- Returns {'ok'} or {'fenced'}.
local fence, aside = unpack(KEYS)
local token, ttl_s = unpack(ARGV, 1, 2)
local FIRST_PAIR = 3

if redis.call('GET', fence) ~= token then
  return {'fenced'}
end
for i = FIRST_PAIR, #ARGV, 2 do
  redis.call('HSETNX', aside, ARGV[i], ARGV[i + 1])
end
redis.call('EXPIRE', aside, ttl_s)
return {'ok'}
