-- Forget the attempts at a step that has succeeded.
-- EVALSHA sha 2 KEYS... ARGV...
-- KEYS  fence      counter, read: the current fencing token
--       attempts   hash, deleted
-- Returns {'ok'} or {'fenced'}.
local fence, attempts = unpack(KEYS)
local token = ARGV[1]

if redis.call('GET', fence) ~= token then
  return {'fenced'}
end
redis.call('DEL', attempts)
return {'ok'}
