-- Delete blobs that are not to be kept and were last stored longer ago than an age.
-- EVALSHA sha 1 KEYS... ARGV...
-- KEYS  blobs   sorted set, read and written: digest -> milliseconds when last stored
--       and, named by prefix: blob (strings, deleted)
-- ARGV  age_ms, now_ms ('' for the clock's: ages are counted back from it), blob_prefix, then every digest to keep.
-- Returns {'ok', how many were deleted}.
local blobs = KEYS[1]
local age_ms, now_ms, blob_prefix = unpack(ARGV, 1, 3)
local FIRST_KEPT = 4

local keep = {}
for i = FIRST_KEPT, #ARGV do
  keep[ARGV[i]] = true
end
local clock = redis.call('TIME')
local oldest_ms = (tonumber(now_ms) or clock[1] * 1000 + math.floor(clock[2] / 1000)) - tonumber(age_ms)
local deleted = 0
for _, digest in ipairs(redis.call('ZRANGEBYSCORE', blobs, '-inf', string.format('%.0f', oldest_ms))) do
  if not keep[digest] then
    deleted = deleted + redis.call('UNLINK', blob_prefix .. digest)
    redis.call('ZREM', blobs, digest)
  end
end
return {'ok', deleted}
