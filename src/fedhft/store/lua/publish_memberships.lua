-- Publish the next membership version by compare-and-set. Repeating the same record succeeds.
-- EVALSHA sha 1 KEYS... ARGV...
-- KEYS  memberships   hash, read and written: version -> record, and `latest` -> version
-- ARGV  version, expected, record, kept: how many versions stay.
-- Returns {'ok', 1}, or {'ok', 0} when the expected version is not the latest.
local memberships = KEYS[1]
local version, expected, record, kept = unpack(ARGV)

local latest = redis.call('HGET', memberships, 'latest') or '0'
if latest == version and redis.call('HGET', memberships, version) == record then
  return {'ok', 1}
elseif latest ~= expected then
  return {'ok', 0}
end
redis.call('HSET', memberships, version, record, 'latest', version)
redis.call('HDEL', memberships, string.format('%.0f', tonumber(version) - tonumber(kept)))
return {'ok', 1}
