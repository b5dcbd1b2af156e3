-- Drop a transfer, if there is one.
-- EVALSHA sha 2 KEYS... ARGV...
-- KEYS  transfer    string with expiry, deleted: the bytes
--       transfers   hash, written: name -> "<incarnation> <milliseconds of the last addition>"
-- Returns {'ok'}.
local transfer, transfers = unpack(KEYS)
local name = ARGV[1]

redis.call('UNLINK', transfer)
redis.call('HDEL', transfers, name)
return {'ok'}
