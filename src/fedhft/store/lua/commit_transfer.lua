-- Turn a transfer whose bytes the caller has verified into a blob, if it is still the one that was verified.
-- When the blob is there already, it counts as just stored and the transfer is dropped.
-- EVALSHA sha 4 KEYS... ARGV...
-- KEYS  transfer    string with expiry, renamed or deleted: the bytes
--       transfers   hash, read and written: name -> "<incarnation> <milliseconds of the last addition>"
--       blob        string, written once: the bytes
--       blobs       sorted set, written: digest -> milliseconds when last stored
-- Returns {'ok'}, or {'changed'} when another caller has dropped or continued the transfer meanwhile.
local transfer, transfers, blob, blobs = unpack(KEYS)
local name, incarnation, size, digest = unpack(ARGV)

local clock = redis.call('TIME')
local now_ms = string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000))
if redis.call('EXISTS', blob) == 1 then
  redis.call('UNLINK', transfer)
else
  local entry = redis.call('HGET', transfers, name)
  if not entry or string.match(entry, '^%S+') ~= incarnation or redis.call('STRLEN', transfer) ~= tonumber(size) then
    return {'changed'}
  end
  redis.call('RENAME', transfer, blob)
  redis.call('PERSIST', blob)
end
redis.call('HDEL', transfers, name)
redis.call('ZADD', blobs, now_ms, digest)
return {'ok'}
