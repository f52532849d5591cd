-- An invalidation gets its number: greater than all before, also than those that a server forgot when it lost its memory.
-- KEYS: rules, floor. ARGV: words without a number, most rules, milliseconds to keep them, channel.
local now = redis.call('TIME')
local number = now[1] * 1000 + math.floor(now[2] / 1000)
local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if last[2] and tonumber(last[2]) >= number then number = tonumber(last[2]) + 1 end
local floor = tonumber(redis.call('GET', KEYS[2]) or '0')
if floor >= number then number = floor + 1 end
local name = string.format('%.0f', number)
redis.call('ZADD', KEYS[1], name, name .. ' ' .. ARGV[1])
local more = redis.call('ZCARD', KEYS[1]) - ARGV[2]
if more > 0 then
  local oldest = redis.call('ZRANGE', KEYS[1], more - 1, more - 1, 'WITHSCORES')
  redis.call('SET', KEYS[2], string.format('%.0f', tonumber(oldest[2])), 'PX', ARGV[3])
  redis.call('ZREMRANGEBYRANK', KEYS[1], 0, more - 1)
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PUBLISH', ARGV[4], name)
return name
