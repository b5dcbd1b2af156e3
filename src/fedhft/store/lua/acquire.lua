-- Take or renew the coordinator lease of a job.
-- EVALSHA sha 2 KEYS... ARGV...
-- KEYS  lease   string with expiry, read and written: the holder
--       fence   counter, read and written: the last fencing token handed out
-- Returns {'ok', fence}, or {'held'} when another holder has it.
local lease, fence = unpack(KEYS)
local holder, ttl_ms = unpack(ARGV)

local now = redis.call('GET', lease)
if now and now ~= holder then
  -- Redis keeps the moment of expiry: had the clock been set back, a holder that died would have the job for as long.
  if redis.call('PTTL', lease) > tonumber(ttl_ms) then
    redis.call('PEXPIRE', lease, ttl_ms)
  end
  return {'held'}
end
redis.call('SET', lease, holder, 'PX', ttl_ms)
if now then
  return {'ok', tonumber(redis.call('GET', fence))}
end
return {'ok', redis.call('INCR', fence)}
