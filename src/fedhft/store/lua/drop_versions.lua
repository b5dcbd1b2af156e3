-- Delete the records of versions below a number, but never the latest.
-- EVALSHA sha 1 KEYS... ARGV...
-- KEYS  versions   hash, read and written: number -> record, and `latest` -> number
-- Returns {'ok', every record that was deleted...}, in no particular order.
local versions = KEYS[1]
local below = tonumber(ARGV[1])

local latest = redis.call('HGET', versions, 'latest')
local dropped = {'ok'}
local all = redis.call('HGETALL', versions)
for i = 1, #all, 2 do
  local number = tonumber(all[i])
  if number and number < below and all[i] ~= latest then
    redis.call('HDEL', versions, all[i])
    dropped[#dropped + 1] = all[i + 1]
  end
end
return dropped
