-- Append a chunk to a transfer, if it begins where the staged bytes end.
-- EVALSHA sha 2 KEYS... ARGV...
-- KEYS  transfer    string with expiry, read and written: the bytes so far
--       transfers   hash, read and written: name -> "<incarnation> <milliseconds of the last addition>"
-- ARGV  incarnation is used when this is the first chunk; ttl_s counts from the last chunk.
-- Returns {'ok', staged} or {'wrong_offset', staged}.
local transfer, transfers = unpack(KEYS)
local name, offset, data, incarnation, ttl_s = unpack(ARGV)

local staged = redis.call('STRLEN', transfer)
if staged ~= tonumber(offset) then
  return {'wrong_offset', staged}
end
if staged > 0 then
  local entry = redis.call('HGET', transfers, name)
  incarnation = entry and string.match(entry, '^%S+') or incarnation
end
local clock = redis.call('TIME')
local now_ms = string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000))
staged = redis.call('APPEND', transfer, data)
redis.call('EXPIRE', transfer, ttl_s)
redis.call('HSET', transfers, name, incarnation .. ' ' .. now_ms)
return {'ok', staged}
