-- What one pod knows of others, for a server that has forgotten it. The newer word of each pod holds, by its sequence.
--
-- KEYS  one hash for each account
-- ARGV  for each account: keep_ms, number of entries, then pod and entry of each
local at = 1
for number = 1, #KEYS do
  local key = KEYS[number]
  local keep_ms, count = ARGV[at], tonumber(ARGV[at + 1])
  at = at + 2
  for _ = 1, count do
    local pod, entry = ARGV[at], ARGV[at + 1]
    at = at + 2
    local known = redis.call('HGET', key, pod)
    if not known or struct.unpack('<d', known) < struct.unpack('<d', entry) then redis.call('HSET', key, pod, entry) end
  end
  redis.call('PEXPIRE', key, keep_ms)
end
return 1
