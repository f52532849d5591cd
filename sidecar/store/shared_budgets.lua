-- One pod's word on budgets that pods share. An account in one window is a hash: pod -> sequence, seen, lease, used, held, lease, used, held,
-- packed as doubles (a hundred pods' are read in a third of the time that text takes), money first, then tokens; held is used and pending
-- together. What is set aside for a pod is the larger of lease and held, however long ago it was heard of: if it died it may have spent all of
-- that. Integers up to 2^53 are exact here.
--
-- KEYS  epoch, short, then one hash for each account
-- ARGV  pod, name of a new epoch, lease_ms, learn_ms, 1 if the pod has more to tell of what it has spent (so long all others wait), then for each account: its name among the short ones, sequence, known, keep_ms, and
--       for money and tokens each: limit, used, held, have, want, need, least (see sidecar/shares.py)
-- gives epoch, learning (1 or 0), the short ones in which this pod has leased more than it holds, then for each account {stale} or {0, lease, used, total, taken, lease, used, total, taken, others}
local pod, fresh, lease_ms, learn_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local server = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)') or '-'

local ENTRY = '<dddddddd'

-- A server that was started anew may have forgotten the last words it was told, or all: first everybody tells it again.
local epoch = redis.call('HMGET', KEYS[1], 'name', 'server', 'since')
local function begin()
  epoch = {fresh, server, string.format('%.0f', now)}
  redis.call('HSET', KEYS[1], 'name', fresh, 'server', server, 'since', epoch[3])
end
local has_forgotten = epoch[2] ~= server
for number = 3, #KEYS do
  local known = tonumber(ARGV[8 + (number - 3) * 18])
  if known > 0 and not has_forgotten then
    local mine = redis.call('HGET', KEYS[number], pod)
    has_forgotten = known > (mine and struct.unpack('<d', mine) or 0)
  end
end
if has_forgotten then begin() end
if ARGV[5] == '1' and now < tonumber(epoch[3]) + learn_ms then
  epoch[3] = string.format('%.0f', now)
  redis.call('HSET', KEYS[1], 'since', epoch[3])
end
local is_learning = now < tonumber(epoch[3]) + learn_ms

local answers, at = {}, 6
for number = 3, #KEYS do
  local key, name, sequence, keep_ms = KEYS[number], ARGV[at], tonumber(ARGV[at + 1]), ARGV[at + 3]
  local ask = {{}, {}}
  for unit = 1, 2 do
    for part = 1, 7 do ask[unit][part] = tonumber(ARGV[at + 3 + (unit - 1) * 7 + part]) end
  end
  at = at + 18
  local all, mine, others, taken, total, idle, pods = redis.call('HGETALL', key), nil, {}, {0, 0}, {0, 0}, {0, 0}, 0
  for field = 1, #all, 2 do
    local entry = {struct.unpack(ENTRY, all[field + 1])}
    if all[field] == pod then
      mine = entry
    else
      if entry[2] + lease_ms > now then pods = pods + 1 end  -- among which what is left is shared out
      for unit = 1, 2 do
        local lease, used, held = entry[unit * 3], entry[unit * 3 + 1], entry[unit * 3 + 2]
        local set_aside = math.max(lease, held)
        taken[unit] = taken[unit] + set_aside
        total[unit] = total[unit] + used
        idle[unit] = idle[unit] + set_aside - held
      end
      others[#others + 1] = all[field]
      others[#others + 1] = all[field + 1]
    end
  end
  if mine and mine[1] >= sequence then
    answers[number - 2] = {mine[1]}
  else
    local entry, answer, is_short = {sequence, now}, {0}, false
    for unit = 1, 2 do
      local limit, used, held, have, want, need, least = unpack(ask[unit])
      local more = used  -- a pod whose journal was lost has still spent what it once said
      if mine and mine[unit * 3 + 1] > used then more = mine[unit * 3 + 1] end
      held = held + more - used
      have = math.max(have + more - used, held)
      want, need, least = want + more - used, need + more - used, least + more - used
      local free = limit - taken[unit] - have
      local growth = 0
      if limit >= 0 and free > 0 and not is_learning then
        growth = math.min(want - have, math.max(math.floor(free / (2 * (pods + 1))), need - have), free)
      end
      if have + growth < least then
        growth = 0
        if not is_learning and free + idle[unit] >= least - have then is_short = true end
      end
      local lease = have + math.max(0, growth)
      for _, value in ipairs({lease, more, held}) do entry[#entry + 1] = value end
      for _, value in ipairs({lease, more, total[unit] + more, taken[unit]}) do answer[#answer + 1] = value end
    end
    redis.call('HSET', key, pod, struct.pack(ENTRY, unpack(entry)))
    redis.call('PEXPIRE', key, keep_ms)
    if is_short then redis.call('ZADD', KEYS[2], now, name) end
    answer[#answer + 1] = others
    answers[number - 2] = answer
  end
end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - 2000)
local short = {}
for _, name in ipairs(redis.call('ZRANGE', KEYS[2], 0, 99)) do
  local mine = redis.call('HGET', KEYS[1] .. ':' .. name, pod)
  mine = mine and {struct.unpack(ENTRY, mine)}
  if mine and (mine[3] > mine[5] or mine[6] > mine[8]) then short[#short + 1] = name end
end
return {epoch[1], is_learning and 1 or 0, short, unpack(answers)}
