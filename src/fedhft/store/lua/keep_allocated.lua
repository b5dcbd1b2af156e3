-- Keep the plans in force, in place of those before.
-- EVALSHA sha 2 KEYS... ARGV...
-- KEYS  fence       counter, read: the current fencing token
--       allocated   string, written: the plans
-- ARGV  token, plans.
-- Returns {'ok'} or {'fenced'}.
local fence, allocated = unpack(KEYS)
local token, plans = unpack(ARGV)

if redis.call('GET', fence) ~= token then
  return {'fenced'}
end
redis.call('SET', allocated, plans)
return {'ok'}
