-- Publish the next membership version by compare-and-set. Repeating the same record succeeds.
-- EVALSHA sha 1 KEYS... ARGV...
-- KEYS  memberships   hash, read and written: version -> record, and `latest` -> version
-- Returns {'ok', 1}, or {'ok', 0} when the expected version is not the latest.
local memberships = KEYS[1]
local version, expected, record = unpack(ARGV)

local latest = redis.call('HGET', memberships, 'latest') or '0'
if latest == version and redis.call('HGET', memberships, version) == record then
  return {'ok', 1}
elseif latest ~= expected then
  return {'ok', 0}
end
redis.call('HSET', memberships, version, record, 'latest', version)
return {'ok', 1}
