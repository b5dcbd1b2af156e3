-- Read one numbered record, or the latest.
-- EVALSHA sha 1 KEYS... ARGV...
-- KEYS  records   hash, read: number -> record, and `latest` -> number
-- ARGV  number, or 'latest'.
-- Returns {'ok', record}, or {'none'}.
local records = KEYS[1]
local number = ARGV[1]

if number == 'latest' then
  number = redis.call('HGET', records, 'latest')
end
local record = number and redis.call('HGET', records, number)
if not record then
  return {'none'}
end
return {'ok', record}
