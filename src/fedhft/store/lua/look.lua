-- What a coordinator decides by: counts and the round, without participants and clients.
-- EVALSHA sha 5 KEYS... ARGV...
-- KEYS  job       hash, read: status, reason, created_ms, paused_ms, blocked
--       clients   hash, read: how many have joined
--       seen      sorted set, read: how many were heard from lately; written once in a job of a release without it
--       round     hash, read: everything but its record
--       declines  hash, read: how many have declined
--       and, named by prefix: updates (hash, read): how many the round has accepted
-- ARGV  live_within_ms, updates_prefix.
-- Returns {'ok', now_ms, status, reason, created_ms, paused (1 or 0), blocked, joined, live, declined, accepted, then the
-- round's number, phase, evaluation, base_version, opened_ms, deadline_ms, extensions, target, quorum, asked} ('' for what it lacks), or {'unknown_job'}.
local job, clients, seen, round, declines = unpack(KEYS)
local live_within_ms, updates_prefix = unpack(ARGV)

local record = redis.call('HMGET', job, 'status', 'reason', 'created_ms', 'paused_ms', 'blocked')
if not record[1] then
  return {'unknown_job'}
end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local oldest_ms = string.format('%.0f', now - tonumber(live_within_ms))
-- One heard from in the future (the clock was set back) counts again when it is next heard.
local newest_ms = string.format('%.0f', now + tonumber(live_within_ms))
local joined = redis.call('HLEN', clients)
if joined > 0 and redis.call('EXISTS', seen) == 0 then
  for _, client in ipairs(redis.call('HKEYS', clients)) do
    redis.call('ZADD', seen, string.format('%.0f', now), client)
  end
end
local at = redis.call('HMGET', round, 'number', 'phase', 'evaluation', 'base_version', 'opened_ms', 'deadline_ms',
  'extensions', 'target', 'quorum', 'asked')
local found = {'ok', string.format('%.0f', now), record[1], record[2], record[3], record[4] and 1 or 0,
  record[5] or '', joined, redis.call('ZCOUNT', seen, oldest_ms, newest_ms), redis.call('HLEN', declines),
  at[1] and redis.call('HLEN', updates_prefix .. at[1]) or 0}
for i = 1, 10 do
  found[#found + 1] = at[i] or ''
end
return found
