#!lua name=motience_1
-- The log's atomic steps. Every key of a producer carries its hash tag, so each call runs on one shard.
--
-- log      m:{P}:log          stream; entry ids are OFFSET-0; field m is the consumer's message
-- session  m:{P}:s:NAME       hash: fence, epoch, seen
-- channel  m:{P}:live         shard channel; one message for each appended section

-- KEYS session   ARGV epoch, fence held or '', memory in ms   ->  {fence, seen} or {'fenced'}
local function open(keys, args)
  local state = redis.call('HMGET', keys[1], 'fence', 'epoch', 'seen')
  local fence = state[1] or '0'
  if args[2] ~= '' and args[2] ~= fence then
    return {'fenced'}
  end
  local seen = ''
  if state[2] == args[1] then
    seen = state[3] or ''
  end
  redis.call('HSET', keys[1], 'fence', fence + 1, 'epoch', args[1], 'seen', seen)
  redis.call('PEXPIRE', keys[1], args[3])
  return {tostring(fence + 1), seen}
end

local function last_offset(log)
  if redis.call('EXISTS', log) == 0 then
    return 0
  end
  local info = redis.call('XINFO', 'STREAM', log)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      return tonumber(string.match(info[i + 1], '^(%d+)'))
    end
  end
  return 0
end

-- Keeps about as many entries as fit into `bytes`, judged by the messages just written. Approximate, so cheap.
local function trim(log, bytes, args, at, n)
  local size = 0
  for i = 0, n - 1 do
    size = size + #args[at + i]
  end
  redis.call('XTRIM', log, 'MAXLEN', '~', math.max(1000, math.floor(bytes * n / math.max(1, size))))
end

-- KEYS log, session...   ARGV channel, log epoch, bytes kept, then for each session:
--   fence, epoch, seen, memory in ms, n, message * n
-- -> for each session its first offset, or -1 where the fence is not the newest
local function append(keys, args)
  local outcomes = {}
  local last = last_offset(keys[1])
  local at = 4
  for k = 2, #keys do
    local fence, epoch, seen, memory, n = args[at], args[at + 1], args[at + 2], args[at + 3], tonumber(args[at + 4])
    at = at + 5
    if redis.call('HGET', keys[k], 'fence') ~= fence then
      outcomes[#outcomes + 1] = -1
    else
      local first = last + 1
      local published = {args[2] .. ' ' .. string.format('%.0f', first) .. '\n'}
      for i = 0, n - 1 do
        local message = args[at + i]
        last = last + 1
        redis.call('XADD', keys[1], string.format('%.0f-0', last), 'm', message)
        published[#published + 1] = string.format('%d\n', #message)
        published[#published + 1] = message
      end
      redis.call('HSET', keys[k], 'epoch', epoch, 'seen', seen)
      redis.call('PEXPIRE', keys[k], memory)
      if n > 0 then
        redis.call('SPUBLISH', args[1], table.concat(published))
        trim(keys[1], tonumber(args[3]), args, at, n)
      end
      outcomes[#outcomes + 1] = first
    end
    at = at + n
  end
  return outcomes
end

-- KEYS log   ->  last offset given out
local function head(keys, args)
  return last_offset(keys[1])
end

redis.register_function('motience_1_open', open)
redis.register_function('motience_1_append', append)
redis.register_function{function_name = 'motience_1_head', callback = head, flags = {'no-writes'}}
