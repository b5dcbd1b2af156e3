-- Read a stretch of a job's history, counted from its first round although older entries may have been dropped.
-- EVALSHA sha 2 KEYS... ARGV...
-- KEYS  history   list, read: entries of the last published rounds, as many as are kept
--       round     hash, read: number and phase, which tell how many rounds were published in all
-- ARGV  start, stop: a slice of all rounds; either may be negative, stop may be empty.
-- Returns {first round whose entry is kept, entries...}.
local history, round = unpack(KEYS)
local start, stop = tonumber(ARGV[1]), tonumber(ARGV[2])

local kept = redis.call('LLEN', history)
local now = redis.call('HMGET', round, 'number', 'phase')
local published = now[1] and tonumber(now[1]) - (now[2] == 'published' and 0 or 1) or kept
local dropped = math.max(0, published - kept)
local all = dropped + kept
if start < 0 then
  start = math.max(0, all + start)
end
if not stop then
  stop = all
elseif stop < 0 then
  stop = all + stop
end
local found = {dropped + 1}
local first, last = math.max(0, start - dropped), math.min(all, stop) - dropped - 1
if first <= last then
  for _, entry in ipairs(redis.call('LRANGE', history, first, last)) do
    found[#found + 1] = entry
  end
end
return found
