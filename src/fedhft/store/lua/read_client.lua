-- Read one client of a job, record, signature and halves in one step.
-- EVALSHA sha 3 KEYS... ARGV...
-- KEYS  clients      hash, read: client -> record
--       signatures   hash, read: client -> signature
--       halves       hash, read: client -> signatures of the halves of its rows
-- Returns {'ok', record, signature ('' for none), halves ('' for none)} or {'none'}.
local clients, signatures, halves = unpack(KEYS)
local client = ARGV[1]

local record = redis.call('HGET', clients, client)
if not record then
  return {'none'}
end
return {'ok', record, redis.call('HGET', signatures, client) or '',
  redis.call('HGET', halves, client) or ''}
