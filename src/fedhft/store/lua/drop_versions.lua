-- Delete the records of versions below a number, but never the latest, nor one that is to stay.
-- EVALSHA sha 2 KEYS... ARGV...
-- KEYS  fence      counter, read: the current fencing token
--       versions   hash, read and written: number -> record, and `latest` -> number
-- ARGV  token, below, keep (number of the version that stays; 0 for none).
-- Returns {'ok', every record that was deleted...}, in no particular order; or {'fenced'}.
local fence, versions = unpack(KEYS)
local token, below, keep = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

if redis.call('GET', fence) ~= token then
  return {'fenced'}
end
local latest = redis.call('HGET', versions, 'latest')
local dropped = {'ok'}
local all = redis.call('HGETALL', versions)
for i = 1, #all, 2 do
  local number = tonumber(all[i])
  if number and number < below and number ~= keep and all[i] ~= latest then
    redis.call('HDEL', versions, all[i])
    dropped[#dropped + 1] = all[i + 1]
  end
end
return dropped
