-- Count the rounds in a row that clients missed; who delivered has missed none. Repeating a round changes nothing.
-- EVALSHA sha 2 KEYS... ARGV...
-- KEYS  fence    counter, read: the current fencing token
--       missed   hash, read and written: client -> "<rounds in a row> <number of the last>"
-- ARGV  token, number, how many clients were absent, these, then those that delivered.
-- Returns {'ok'} or {'fenced'}.
local fence, missed = unpack(KEYS)
local token, number, absent = unpack(ARGV, 1, 3)
local FIRST_CLIENT = 4

if redis.call('GET', fence) ~= token then
  return {'fenced'}
end
for i = FIRST_CLIENT, #ARGV do
  if i - FIRST_CLIENT >= tonumber(absent) then
    redis.call('HDEL', missed, ARGV[i])
  else
    local count, last = string.match(redis.call('HGET', missed, ARGV[i]) or '0 0', '^(%d+) (%d+)$')
    if last ~= number then
      redis.call('HSET', missed, ARGV[i], (count + 1) .. ' ' .. number)
    end
  end
end
return {'ok'}
