-- Store a blob unless it is there; in both cases it counts as just stored, so a sweep spares it.
-- EVALSHA sha 2 KEYS... ARGV...
-- KEYS  blob    string, written once: the bytes
--       blobs   sorted set, written: digest -> milliseconds when last stored
-- Returns {'ok'}.
local blob, blobs = unpack(KEYS)
local digest, data = unpack(ARGV)

local clock = redis.call('TIME')
local now_ms = string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000))
if redis.call('EXISTS', blob) == 0 then
  redis.call('SET', blob, data)
end
redis.call('ZADD', blobs, now_ms, digest)
return {'ok'}
