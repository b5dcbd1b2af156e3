-- Count an attempt at a step before it begins, so that one that kills its process is counted too.
-- EVALSHA sha 2 KEYS... ARGV...
-- KEYS  fence      counter, read: the current fencing token
--       attempts   hash, read and written: step, count; current (the client whose update is being folded);
--                  suspect:<client> (how many attempts ended while it was)
-- ARGV  token, step, anew ('1' to forget earlier attempts).
-- Returns {'ok', count, client, attempts that ended at it, ...} or {'fenced'}.
local fence, attempts = unpack(KEYS)
local token, step, anew = unpack(ARGV)

if redis.call('GET', fence) ~= token then
  return {'fenced'}
end
if anew == '1' or redis.call('HGET', attempts, 'step') ~= step then
  redis.call('DEL', attempts)
end
local current = redis.call('HGET', attempts, 'current')
if current then
  redis.call('HDEL', attempts, 'current')
  redis.call('HINCRBY', attempts, 'suspect:' .. current, 1)
end
redis.call('HSET', attempts, 'step', step)
local answer = {'ok', redis.call('HINCRBY', attempts, 'count', 1)}
local all = redis.call('HGETALL', attempts)
for i = 1, #all, 2 do
  local client = string.match(all[i], '^suspect:(.*)$')
  if client then
    answer[#answer + 1] = client
    answer[#answer + 1] = tonumber(all[i + 1])
  end
end
return answer
