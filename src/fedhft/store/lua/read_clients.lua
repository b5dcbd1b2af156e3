-- Read the clients of a job, records and signatures in one step.
-- EVALSHA sha 2 KEYS... ARGV...
-- KEYS  clients      hash, read: client -> record
--       signatures   hash, read: client -> signature
-- ARGV  the clients to read; none means all.
-- Returns {{client, record...}, {client, signature...}}, flat, without those that are absent.
local clients, signatures = unpack(KEYS)

if #ARGV == 0 then
  return {redis.call('HGETALL', clients), redis.call('HGETALL', signatures)}
end
local function some(hash)
  local found = {}
  for _, client in ipairs(ARGV) do
    local value = redis.call('HGET', hash, client)
    if value then
      found[#found + 1] = client
      found[#found + 1] = value
    end
  end
  return found
end
return {some(clients), some(signatures)}
