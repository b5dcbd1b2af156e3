-- Store a job's schema if none is stored: the first wins.
-- EVALSHA sha 2 KEYS... ARGV...
-- KEYS  job      hash, read: whether the job exists
--       schema   string, read and written
-- Returns {'ok', stored schema} or {'unknown_job'}.
local job, schema = unpack(KEYS)
local offered = ARGV[1]

if redis.call('EXISTS', job) == 0 then
  return {'unknown_job'}
end
redis.call('SETNX', schema, offered)
return {'ok', redis.call('GET', schema)}
