-- One pod's counts of one namespace go into the sum, whatever of them is in it already: repeated or late, it does no harm.
-- KEYS: the namespace. ARGV: pod, audits, failures, seconds to keep it. Returns audits and failures of all other pods.
local pod = 'p:' .. ARGV[1]
local audits, failures = tonumber(ARGV[2]), tonumber(ARGV[3])
local was = redis.call('HGET', KEYS[1], pod) or '0:0'
local a, f = string.match(was, '^(%d+):(%d+)$')
a, f = tonumber(a or 0), tonumber(f or 0)
if audits > a and failures >= f then
  redis.call('HINCRBY', KEYS[1], 'audits', audits - a)
  redis.call('HINCRBY', KEYS[1], 'failures', failures - f)
  redis.call('HSET', KEYS[1], pod, ARGV[2] .. ':' .. ARGV[3])
  a, f = audits, failures
end
redis.call('EXPIRE', KEYS[1], ARGV[4])
local sum = redis.call('HMGET', KEYS[1], 'audits', 'failures')
return {tonumber(sum[1] or 0) - a, tonumber(sum[2] or 0) - f}
