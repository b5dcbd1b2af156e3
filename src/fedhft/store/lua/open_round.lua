-- Open the next round of a job. Repeating the same opening changes nothing.
-- EVALSHA sha 8 KEYS... ARGV...
-- KEYS  fence          counter, read: the current fencing token
--       job            hash, read: status
--       round          hash, read and replaced: the round
--       participants   set, replaced: clients that take part
--       forgotten      hash, deleted: accepted updates of a round too old to keep
--       tasks          counter and channel, written
--       progress       counter and channel, written
--       events         list, written: what happened to the job
-- ARGV  token, number, record, phase, base_version, deadline_ms, evaluation, opened_ms, target, quorum, then every
--       participant.
-- Returns {'ok'}, {'fenced'}, {'unknown_job'}, {'job_not_running', status} or {'round_closed', state}.
local fence, job, round, participants, forgotten, tasks, progress, events = unpack(KEYS)
local token, number, record, phase, base_version, deadline_ms, evaluation, opened_ms, target, quorum = unpack(ARGV, 1, 10)
local FIRST_PARTICIPANT = 11
-- include: note_event

if redis.call('GET', fence) ~= token then
  return {'fenced'}
end
local status = redis.call('HGET', job, 'status')
if not status then
  return {'unknown_job'}
elseif status ~= 'running' and status ~= 'evaluating' then
  return {'job_not_running', status}
end
local last = redis.call('HMGET', round, 'number', 'phase', 'record')
if last[3] == record and last[2] == 'collecting' then
  return {'ok'}
end
local next_number = 1
if last[1] then
  next_number = tonumber(last[1]) + 1
end
if tonumber(number) ~= next_number or (last[1] and last[2] ~= 'published') then
  return {'round_closed', last[1] and ('round ' .. last[1] .. ' ' .. last[2]) or 'no round yet'}
end
redis.call('HSET', round, 'number', number, 'record', record, 'phase', phase, 'base_version', base_version,
  'deadline_ms', deadline_ms, 'extensions', 0, 'pinned', '', 'evaluation', evaluation, 'opened_ms', opened_ms,
  'target', target, 'quorum', quorum, 'asked', #ARGV - FIRST_PARTICIPANT + 1)
redis.call('DEL', participants, forgotten)
for i = FIRST_PARTICIPANT, #ARGV do
  redis.call('SADD', participants, ARGV[i])
end
note_event(events, 'opened', number, '',
  string.format('%d clients%s', #ARGV - FIRST_PARTICIPANT + 1, evaluation == '1' and ', final evaluation' or ''))
redis.call('PUBLISH', tasks, redis.call('INCR', tasks))
redis.call('PUBLISH', progress, redis.call('INCR', progress))
return {'ok'}
