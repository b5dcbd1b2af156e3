-- Read what a commit needs: whether the blob is there, else the staged bytes and their incarnation, in one step.
-- EVALSHA sha 3 KEYS... ARGV...
-- KEYS  transfer    string with expiry, read: the bytes
--       transfers   hash, read: name -> "<incarnation> <milliseconds of the last addition>"
--       blob        string, read: whether it is there
-- Returns {'done'}, {'staged', incarnation, bytes} or {'none'}.
local transfer, transfers, blob = unpack(KEYS)
local name = ARGV[1]

if redis.call('EXISTS', blob) == 1 then
  return {'done'}
end
local entry = redis.call('HGET', transfers, name)
local data = redis.call('GET', transfer)
if not entry or not data then
  return {'none'}
end
return {'staged', string.match(entry, '^%S+'), data}
