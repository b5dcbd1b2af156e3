-- Note what a fold did with updates that it did not take as they were. A client's last outcome replaces the one before.
-- EVALSHA sha 2 KEYS... ARGV...
-- KEYS  fence      counter, read: the current fencing token
--       outcomes   hash, written: client -> outcome
-- ARGV  token, then client and outcome, in pairs.
-- Returns {'ok'} or {'fenced'}.
local fence, outcomes = unpack(KEYS)
local FIRST_PAIR = 2

if redis.call('GET', fence) ~= ARGV[1] then
  return {'fenced'}
end
for i = FIRST_PAIR, #ARGV, 2 do
  redis.call('HSET', outcomes, ARGV[i], ARGV[i + 1])
end
return {'ok'}
