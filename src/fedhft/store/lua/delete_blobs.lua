-- Delete blobs; absent ones are ignored.
-- EVALSHA sha 1 KEYS... ARGV...
-- KEYS  blobs   sorted set, written: digest -> milliseconds when last stored
--       and, named by prefix: blob (strings, deleted)
-- ARGV  blob_prefix, then every digest to delete.
-- Returns {'ok'}.
local blobs = KEYS[1]
local blob_prefix = ARGV[1]
local FIRST_DIGEST = 2

for i = FIRST_DIGEST, #ARGV do
  redis.call('UNLINK', blob_prefix .. ARGV[i])
  redis.call('ZREM', blobs, ARGV[i])
end
return {'ok'}
