-- Replace the signature of a joined client; one that left is not added again.
-- EVALSHA sha 2 KEYS... ARGV...
-- KEYS  clients      hash, read: whether the client is joined
--       signatures   hash, written; '' removes it
-- Returns {'ok', 1}, or {'ok', 0} when the client is not joined.
local clients, signatures = unpack(KEYS)
local client, signature = unpack(ARGV)

if redis.call('HEXISTS', clients, client) == 0 then
  return {'ok', 0}
end
if signature == '' then
  redis.call('HDEL', signatures, client)
else
  redis.call('HSET', signatures, client, signature)
end
return {'ok', 1}
