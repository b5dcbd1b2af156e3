-- Drop transfers to which nothing was added for an age.
-- EVALSHA sha 1 KEYS... ARGV...
-- KEYS  transfers   hash, read and written: name -> "<incarnation> <milliseconds of the last addition>"
--       and, named by prefix: transfer (strings with expiry, deleted)
-- ARGV  age_ms, transfer_prefix.
-- Returns {'ok', how many were dropped}; one that expired by itself leaves the index and is not counted.
local transfers = KEYS[1]
local age_ms, transfer_prefix = unpack(ARGV)

local clock = redis.call('TIME')
local oldest_ms = clock[1] * 1000 + math.floor(clock[2] / 1000) - tonumber(age_ms)
local dropped = 0
local staged = redis.call('HGETALL', transfers)
for i = 1, #staged, 2 do
  if tonumber(string.match(staged[i + 1], '%d+$')) <= oldest_ms then
    dropped = dropped + redis.call('UNLINK', transfer_prefix .. staged[i])
    redis.call('HDEL', transfers, staged[i])
  end
end
return {'ok', dropped}
