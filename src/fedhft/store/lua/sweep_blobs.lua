-- Delete blobs that nobody keeps and transfers, both older than an age.
-- EVALSHA sha 2 KEYS... ARGV...
-- KEYS  blobs       sorted set, read and written: digest -> milliseconds when last stored
--       transfers   hash, read and written: name -> "<incarnation> <milliseconds of the last addition>"
--       and, named by prefix: blob (strings, deleted), transfer (strings with expiry, deleted)
-- ARGV  age_ms, blob_prefix, transfer_prefix, then every digest to keep.
-- Returns {'ok', how many were deleted}.
local blobs, transfers = unpack(KEYS)
local age_ms, blob_prefix, transfer_prefix = unpack(ARGV, 1, 3)
local FIRST_KEPT = 4

local keep = {}
for i = FIRST_KEPT, #ARGV do
  keep[ARGV[i]] = true
end
local clock = redis.call('TIME')
local oldest_ms = clock[1] * 1000 + math.floor(clock[2] / 1000) - tonumber(age_ms)
local deleted = 0
for _, digest in ipairs(redis.call('ZRANGEBYSCORE', blobs, '-inf', string.format('%.0f', oldest_ms))) do
  if not keep[digest] then
    deleted = deleted + redis.call('UNLINK', blob_prefix .. digest)
    redis.call('ZREM', blobs, digest)
  end
end
local staged = redis.call('HGETALL', transfers)
for i = 1, #staged, 2 do
  if tonumber(string.match(staged[i + 1], '%d+$')) <= oldest_ms then
    deleted = deleted + redis.call('UNLINK', transfer_prefix .. staged[i])
    redis.call('HDEL', transfers, staged[i])
  end
end
return {'ok', deleted}
