-- Put a certificate on the deny list and tell everybody who follows it; drop those that have expired by themselves.
-- EVALSHA sha 2 KEYS... ARGV...
-- KEYS  revoked    hash, read and written: serial -> Revocation (JSON)
--       changes    counter and channel, written
-- ARGV  serial, record, slack_ms (entries whose certificate ended longer ago are dropped).
-- Returns {entries left}.
local revoked, changes = unpack(KEYS)
local serial, record, slack_ms = unpack(ARGV)

local oldest_ms = redis.call('TIME')[1] * 1000 - slack_ms
local known = redis.call('HGETALL', revoked)
for i = 1, #known, 2 do
  local not_after_ms = cjson.decode(known[i + 1]).not_after_ms
  if not_after_ms < oldest_ms then
    redis.call('HDEL', revoked, known[i])
  end
end
redis.call('HSET', revoked, serial, record)
redis.call('PUBLISH', changes, redis.call('INCR', changes))
return {redis.call('HLEN', revoked)}
