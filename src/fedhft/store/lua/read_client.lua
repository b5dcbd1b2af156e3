-- Read one client of a job, record and signature in one step.
-- EVALSHA sha 2 KEYS... ARGV...
-- KEYS  clients      hash, read: client -> record
--       signatures   hash, read: client -> signature
-- Returns {'ok', record, signature ('' for none)} or {'none'}.
local clients, signatures = unpack(KEYS)
local client = ARGV[1]

local record = redis.call('HGET', clients, client)
if not record then
  return {'none'}
end
return {'ok', record, redis.call('HGET', signatures, client) or ''}
