-- Runs that pods share. What each pod has said of a run is a text that only pods read (its sequence stands first); whoever wants a call let
-- in says which version of the run it has judged by, and is let in only if that is still the one.
--
-- KEYS  epoch, pods (when each was last heard), acks (up to which news each has heard), index (open runs), closed (generations of closed
--       ones), ages of those, news (numbers of changes), bell; then of one run: its hash, its named steps
-- ARGV  operation, pod, name of a new epoch, lease_ms, learn_ms, 1 if the pod has more to tell, then the operation's own (see shared_runs.py)
local op, pod, fresh, lease_ms, learn_ms = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local META, PODS, ACKS, INDEX, CLOSED, AGES, NEWS, BELL, RUN, STEPS = unpack(KEYS)
local MOST_CLOSED, CLOSED_MS, AT_ONCE = 10000, 86400000, 200
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local server = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)') or '-'

local function text_of(number) return string.format('%.0f', number) end

-- A server that was started anew may have forgotten the last words it was told, or all: first everybody tells it again.
local epoch = redis.call('HMGET', META, 'name', 'server', 'since')
local function begin()
  epoch = {fresh, server, text_of(now)}
  redis.call('HSET', META, 'name', fresh, 'server', server, 'since', epoch[3])
  redis.call('DEL', BELL)  -- its numbers may begin anew
end
if epoch[2] ~= server then begin() end
if ARGV[6] == '1' and now < tonumber(epoch[3]) + learn_ms then
  epoch[3] = text_of(now)
  redis.call('HSET', META, 'since', epoch[3])
end
local learns_ms = tonumber(epoch[3]) + learn_ms - now

local function generation(text) return text and string.match(text, '^%["([^"]*)"') end

local function announce(key)
  local number = redis.call('HINCRBY', META, 'number', 1)
  redis.call('ZADD', NEWS, number, key)
  redis.call('XADD', BELL, 'MAXLEN', 1, text_of(number) .. '-1', 'n', number)
  return number
end

local function bury(key, which)
  redis.call('HDEL', INDEX, key)
  redis.call('HSET', CLOSED, key, which)
  redis.call('ZADD', AGES, now, key)
  announce(key)
  local over = redis.call('ZCARD', AGES) - MOST_CLOSED
  for _, old in ipairs(over > 0 and redis.call('ZRANGE', AGES, 0, over - 1) or {}) do
    redis.call('ZREM', AGES, old)
    redis.call('HDEL', CLOSED, old)
    if redis.call('HEXISTS', INDEX, old) == 0 then redis.call('ZREM', NEWS, old) end
  end
end

local function put(part, keep_ms)
  redis.call('HSET', RUN, 'd:' .. pod, part, 'used', text_of(now))
  redis.call('PEXPIRE', RUN, keep_ms)
  redis.call('PEXPIRE', STEPS, keep_ms)
  return redis.call('HINCRBY', RUN, 'version', 1)
end

-- {pod, 1 if its holding counts, text, ...}
local function parts()
  local all, found = redis.call('HGETALL', RUN), {}
  for field = 1, #all, 2 do
    if string.sub(all[field], 1, 2) == 'd:' then
      local name = string.sub(all[field], 3)
      local heard = tonumber(redis.call('ZSCORE', PODS, name) or 0)
      found[#found + 1] = name
      found[#found + 1] = math.max(math.min(heard, now), tonumber(epoch[3])) + lease_ms > now and 1 or 0
      found[#found + 1] = all[field + 1]
    end
  end
  return found
end

local function state(step)
  local version = redis.call('HGET', RUN, 'version') or '0'
  local is_again = step ~= '' and redis.call('SISMEMBER', STEPS, step) or 0
  return {'state', version, is_again, redis.call('SCARD', STEPS), parts()}
end

local function sequence(part) return tonumber(part and string.match(part, '^%[(%d+)') or 0) end

if op == 'look' then
  local key_epoch, number, is_leaving = ARGV[7], tonumber(ARGV[8]), ARGV[9] == '1'
  if key_epoch ~= epoch[1] then number = 0 end
  redis.call('ZADD', PODS, now, pod)
  redis.call('ZADD', ACKS, number, pod)
  if is_leaving then
    redis.call('ZREM', PODS, pod)
    redis.call('ZREM', ACKS, pod)
  end
  for _, gone in ipairs(redis.call('ZRANGEBYSCORE', PODS, '-inf', now - lease_ms, 'LIMIT', 0, 100)) do
    redis.call('ZREM', PODS, gone)
    redis.call('ZREM', ACKS, gone)
  end
  local news = redis.call('ZRANGEBYSCORE', NEWS, '(' .. text_of(number), '+inf', 'WITHSCORES', 'LIMIT', 0, AT_ONCE)
  local changes = {}
  for item = 1, #news, 2 do
    local key = news[item]
    changes[#changes + 1] = key
    changes[#changes + 1] = redis.call('HGET', INDEX, key) or ''
    changes[#changes + 1] = redis.call('HGET', CLOSED, key) or ''
    number = tonumber(news[item + 1])
  end
  return {epoch[1], learns_ms > 0 and 1 or 0, text_of(number), #news >= 2 * AT_ONCE and 1 or 0, changes}
end

if op == 'lagging' then  -- who may still trust what it knew before this number
  local number, trust_ms, lagging = tonumber(ARGV[7]), tonumber(ARGV[8]), 0
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', ACKS, '-inf', '(' .. text_of(number))) do
    local heard = tonumber(redis.call('ZSCORE', PODS, name) or 0)
    if name ~= pod and heard + trust_ms > now then lagging = lagging + 1 end
  end
  return lagging
end

if op == 'bury' then
  for at = 7, #ARGV, 2 do
    local key, which = ARGV[at], ARGV[at + 1]
    local open = redis.call('HGET', INDEX, key)
    if redis.call('HGET', CLOSED, key) ~= which and (not open or generation(open) == which) then bury(key, which) end
  end
  return 1
end

local key = ARGV[7]
local open = redis.call('HGET', INDEX, key)

if op == 'open' then
  local which, text, keep_ms, most, is_reopening = ARGV[8], ARGV[9], ARGV[10], tonumber(ARGV[11]), ARGV[12] == '1'
  if open then return {'open', open, redis.call('ZSCORE', NEWS, key) or '0'} end
  if redis.call('HEXISTS', CLOSED, key) == 1 and not is_reopening then return {'closed'} end
  if learns_ms > 0 then return {'learning', learns_ms} end
  if redis.call('HLEN', INDEX) >= most then return {'full'} end
  redis.call('DEL', RUN, STEPS)
  redis.call('HSET', RUN, 'gen', which, 'version', text_of(now * 1000), 'used', text_of(now))
  redis.call('PEXPIRE', RUN, keep_ms)
  redis.call('HSET', INDEX, key, text)
  redis.call('HDEL', CLOSED, key)
  redis.call('ZREM', AGES, key)
  return {'opened', announce(key)}
end

if op == 'state' then
  local found = state('')
  found[6] = ARGV[8] == '1' and redis.call('SMEMBERS', STEPS) or {}
  return found
end

local which = ARGV[8]

if op == 'restore' then  -- what a pod knows of a run, its own part and others', for a server that has forgotten it
  local text, keep_ms, count = ARGV[9], ARGV[10], tonumber(ARGV[11])
  if redis.call('HGET', CLOSED, key) == which then return {'closed'} end
  if open and generation(open) > which then return {'other', open, 0} end
  if redis.call('HGET', RUN, 'gen') ~= which then
    redis.call('DEL', RUN, STEPS)
    redis.call('HSET', RUN, 'gen', which, 'version', text_of(now * 1000), 'used', text_of(now))
  end
  for at = 12, 11 + 2 * count, 2 do
    local name, part = 'd:' .. ARGV[at], ARGV[at + 1]
    if sequence(redis.call('HGET', RUN, name)) < sequence(part) then redis.call('HSET', RUN, name, part) end
  end
  for at = 12 + 2 * count, #ARGV do redis.call('SADD', STEPS, ARGV[at]) end
  redis.call('HINCRBY', RUN, 'version', 1)
  redis.call('PEXPIRE', RUN, keep_ms)
  redis.call('PEXPIRE', STEPS, keep_ms)
  if not open or generation(open) ~= which then
    redis.call('HSET', INDEX, key, text)
    redis.call('HDEL', CLOSED, key)
    redis.call('ZREM', AGES, key)
    announce(key)
  end
  return {'told'}
end

local is_there = redis.call('HGET', RUN, 'gen') == which
local is_known = is_there and open and generation(open) == which

if op == 'put' then  -- also of a run that is closed: what it has used in the end
  local number, part, keep_ms = tonumber(ARGV[9]), ARGV[10], ARGV[11]
  if not is_there then
    if open and generation(open) > which then return {'other', open, 0} end
    if redis.call('HGET', CLOSED, key) == which then return {'closed'} end
    if learns_ms <= 0 then begin() end
    return {'unknown'}
  end
  local mine = sequence(redis.call('HGET', RUN, 'd:' .. pod))
  if mine >= number then return {'stale', text_of(mine)} end
  return {'told', put(part, keep_ms)}
end

if not open and redis.call('HEXISTS', CLOSED, key) == 1 then return {'closed'} end
if open and generation(open) ~= which then return {'other', open, 0} end
if learns_ms > 0 then return {'learning', learns_ms} end
if not is_known then
  begin()
  return {'unknown'}
end

if op == 'close' then
  local idle_ms, keep_ms = tonumber(ARGV[9]), CLOSED_MS
  local unused_ms = now - tonumber(redis.call('HGET', RUN, 'used'))
  if unused_ms < idle_ms then return {'used', unused_ms} end
  local found = state('')
  bury(key, which)
  redis.call('PEXPIRE', RUN, keep_ms)
  redis.call('PEXPIRE', STEPS, keep_ms)
  return found
end

-- enter
local version, number, part, step, claim, keep_ms = ARGV[9], tonumber(ARGV[10]), ARGV[11], ARGV[12], tonumber(ARGV[13]), ARGV[14]
local there = redis.call('HGET', RUN, 'version')
if tonumber(version) > tonumber(there) then
  begin()
  return {'unknown'}
end
local mine = sequence(redis.call('HGET', RUN, 'd:' .. pod))
if mine >= number then return {'stale', text_of(mine)} end
if version ~= there or (step ~= '' and redis.call('SISMEMBER', STEPS, step) ~= claim) then return state(step) end
if step ~= '' and claim == 0 then redis.call('SADD', STEPS, step) end
return {'in', put(part, keep_ms)}
