-- Add an event to a job's log: what happened, when, in which round, to which client. The oldest make way.
-- A list, last in KEYS of the scripts that include this; for events of clients another list, so that thousands of them
-- that join do not push out what happened to the job.
local function note_event(list, kind, number, client, text)
  local KEPT = 1000
  local clock = redis.call('TIME')
  local at_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
  redis.call('RPUSH', list, cjson.encode({at_ms = at_ms, kind = kind, round = tonumber(number) or 0, client = client,
    text = text}))
  redis.call('LTRIM', list, -KEPT, -1)
end
