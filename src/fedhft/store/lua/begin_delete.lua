-- Begin to delete a job: from here on it does not exist, though its id stays listed until all of it is gone.
-- EVALSHA sha 6 KEYS... ARGV...
-- KEYS  jobs       list, read: ids of all jobs
--       job        hash, read and deleted
--       fence      counter, written: moves past the present holder's token
--       tasks      counter and channel, written: agents and watchers look again
--       arrivals   counter and channel, written
--       progress   counter and channel, written
-- ARGV  job, kept_s (how long the counters stay, for those who remember them), then every status that allows it.
-- Returns {'ok'}, {'unknown_job'} or {'job_running', status}.
local jobs, job, fence, tasks, arrivals, progress = unpack(KEYS)
local id, kept_s = unpack(ARGV, 1, 2)
local FIRST_STATUS = 3

local status = redis.call('HGET', job, 'status')
local allowed = not status
for i = FIRST_STATUS, #ARGV do
  allowed = allowed or status == ARGV[i]
end
if not allowed then
  return {'job_running', status}
end
if not status then
  for _, listed in ipairs(redis.call('LRANGE', jobs, 0, -1)) do
    if listed == id then
      return {'ok'}
    end
  end
  return {'unknown_job'}
end
redis.call('DEL', job)
redis.call('INCR', fence)
redis.call('PUBLISH', tasks, redis.call('INCR', tasks))
redis.call('PUBLISH', arrivals, redis.call('INCR', arrivals))
redis.call('PUBLISH', progress, redis.call('INCR', progress))
for _, counter in ipairs({fence, tasks, arrivals, progress}) do
  redis.call('EXPIRE', counter, kept_s)
end
return {'ok'}
