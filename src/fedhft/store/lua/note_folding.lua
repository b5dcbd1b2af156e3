-- Note whose update an attempt folds now; only where an attempt is being counted.
-- EVALSHA sha 2 KEYS... ARGV...
-- KEYS  fence      counter, read: the current fencing token
--       attempts   hash, written: current
-- ARGV  token, client; '' when the fold is past its updates.
-- Returns {'ok'} or {'fenced'}.
local fence, attempts = unpack(KEYS)
local token, client = unpack(ARGV)

if redis.call('GET', fence) ~= token then
  return {'fenced'}
end
if client == '' then
  redis.call('HDEL', attempts, 'current')
elseif redis.call('EXISTS', attempts) == 1 then
  redis.call('HSET', attempts, 'current', client)
end
return {'ok'}
