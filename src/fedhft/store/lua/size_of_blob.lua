-- Size of a blob.
-- EVALSHA sha 1 KEYS... ARGV...
-- KEYS  blob   string, read: the bytes
-- Returns {'ok', size}, or {'none'}.
local blob = KEYS[1]

if redis.call('EXISTS', blob) == 0 then
  return {'none'}
end
return {'ok', redis.call('STRLEN', blob)}
