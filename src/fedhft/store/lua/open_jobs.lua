-- Jobs that are not over.
-- EVALSHA sha 1 KEYS... ARGV...
-- KEYS  jobs   list, read: ids of all jobs in order of creation
--       and, named by prefix and suffix: job (hash, read): status
-- ARGV  prefix, suffix of a job's key; then every status in which a job is over.
-- Returns their ids in order of creation.
local jobs = KEYS[1]
local prefix, suffix = ARGV[1], ARGV[2]
local FIRST_OVER = 3

local over = {}
for i = FIRST_OVER, #ARGV do
  over[ARGV[i]] = true
end
local open = {}
for _, id in ipairs(redis.call('LRANGE', jobs, 0, -1)) do
  local status = redis.call('HGET', prefix .. id .. suffix, 'status')
  if status and not over[status] then
    open[#open + 1] = id
  end
end
return open
