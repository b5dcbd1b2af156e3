-- Delete blobs; absent ones are ignored.
-- EVALSHA sha 1 KEYS... ARGV...
-- KEYS  blobs   sorted set, read and written: digest -> milliseconds when last stored
--       and, named by prefix: blob (strings, deleted)
-- ARGV  before_ms ('' for no limit): blobs stored then or later stay; blob_prefix; then every digest to delete.
-- Returns {'ok'}.
local blobs = KEYS[1]
local before_ms, blob_prefix = unpack(ARGV, 1, 2)
local FIRST_DIGEST = 3

for i = FIRST_DIGEST, #ARGV do
  local stored_ms = before_ms ~= '' and redis.call('ZSCORE', blobs, ARGV[i])
  if not stored_ms or tonumber(stored_ms) < tonumber(before_ms) then
    redis.call('UNLINK', blob_prefix .. ARGV[i])
    redis.call('ZREM', blobs, ARGV[i])
  end
end
return {'ok'}
