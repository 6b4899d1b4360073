#!lua name=motience_2
-- The log's atomic steps. Every key of a producer carries its hash tag, so each call runs on one shard.
--
-- meta     m:{P}:meta   hash: last offset, lives ('EPOCH:BEGAN,...', oldest first), total bytes, bytes and time at the last mark
-- log      m:{P}:log    stream; entry ids are OFFSET-SEQ; the one field is the sender's epoch (hex), its value the message
-- marks    m:{P}:marks  list of 'OFFSET TOTAL TIME', oldest first: where the log is cut when it is trimmed
-- ids      m:{P}:ids    sorted set of clients' own ids by time
-- session  m:{P}:s:NAME hash: life (of the log, in which the fence was raised), fence, epoch, seen
-- channel  m:{P}:live   shard channel; one message for each appended section
--
-- Numbers above 2^53 do not survive Lua: epochs are passed on as text. Offsets and times stay below.

local MAX_LIVES = 32
local MAX_IDS = 100000
local PARTS = 64

local function text(number)
  return string.format('%.0f', number)
end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Begins the life `epoch` where another is the present one. Returns last offset and lives. Of lives too old to be
-- remembered the lowest beginning is, with the oldest that still is.
local function enter(meta, epoch)
  local state = redis.call('HMGET', meta, 'last', 'lives')
  local last, lives = tonumber(state[1] or '0'), state[2] or ''
  if string.match(lives, '(%d+):%d+$') == epoch then
    return last, lives
  end
  local all = {}
  for life, began in string.gmatch(lives, '(%d+):(%d+)') do
    all[#all + 1] = {life, tonumber(began)}
  end
  all[#all + 1] = {epoch, last}
  if #all > MAX_LIVES then
    local oldest = table.remove(all, 1)
    all[1][2] = math.min(all[1][2], oldest[2])
  end
  for i, life in ipairs(all) do
    all[i] = life[1] .. ':' .. text(life[2])
  end
  lives = table.concat(all, ',')
  redis.call('HSET', meta, 'last', text(last), 'lives', lives)
  return last, lives
end

-- KEYS session   ARGV log epoch, sender's epoch, fence held or '', memory in ms   ->  {fence, seen} or {'fenced'}
local function open(keys, args)
  local state = redis.call('HMGET', keys[1], 'life', 'fence', 'epoch', 'seen')
  local fence = state[2] or '0'
  -- A fence of an earlier life may have been rolled back with the log: it proves nothing.
  if args[3] ~= '' and state[1] == args[1] and args[3] ~= fence then
    return {'fenced'}
  end
  local seen = ''
  if state[3] == args[2] then
    seen = state[4] or ''
  end
  local raised = text(tonumber(fence) + 1)
  redis.call('HSET', keys[1], 'life', args[1], 'fence', raised, 'epoch', args[2], 'seen', seen)
  redis.call('PEXPIRE', keys[1], args[4])
  return {raised, seen}
end

-- Marks the end of a part of the log, and removes the oldest parts that are too old or that nobody has room for.
local function trim(keys, last, size, now, bytes, age)
  local state = redis.call('HMGET', keys[1], 'total', 'marked', 'since')
  local total = tonumber(state[1] or '0') + size
  local marked, since = tonumber(state[2] or '0'), tonumber(state[3] or now)
  if total - marked >= math.max(1, bytes / PARTS) or now - since >= age / PARTS then
    redis.call('RPUSH', keys[3], text(last) .. ' ' .. text(total) .. ' ' .. text(now))
    marked, since = total, now
  end
  redis.call('HSET', keys[1], 'total', text(total), 'marked', text(marked), 'since', text(since))
  local gone
  while true do
    local oldest = redis.call('LINDEX', keys[3], 0)
    if not oldest then
      break
    end
    local offset, sum, at = string.match(oldest, '^(%d+) (%d+) (%d+)$')
    if total - tonumber(sum) < bytes and now - tonumber(at) <= age then
      break
    end
    gone = tonumber(offset)
    redis.call('LPOP', keys[3])
  end
  if gone then
    redis.call('XTRIM', keys[2], 'MINID', text(gone + 1))
  end
end

-- KEYS meta, log, marks, ids, session...
-- ARGV channel, log epoch, bytes kept, age kept in ms, then for each session:
--   fence, epoch, epoch in hex, seen, memory in ms, n, then n times: seq, client's id or '', message
-- -> for each session 1, or -1 where its fence is not the newest, or -2 where it was raised in an earlier life
local function append(keys, args)
  local outcomes = {}
  local last = enter(keys[1], args[2])
  local bytes, age = tonumber(args[3]), tonumber(args[4])
  local size, now, began = 0, now_ms(), last
  local at = 5
  for k = 5, #keys do
    local fence, epoch, hex, seen, memory, n = args[at], args[at + 1], args[at + 2], args[at + 3], args[at + 4], tonumber(args[at + 5])
    at = at + 6
    local held = redis.call('HMGET', keys[k], 'life', 'fence')
    if held[1] ~= args[2] then
      outcomes[#outcomes + 1] = -2
    elseif held[2] ~= fence then
      outcomes[#outcomes + 1] = -1
    else
      local published = {args[2] .. ' ' .. text(last + 1) .. ' ' .. hex .. '\n'}
      for i = at, at + 3 * (n - 1), 3 do
        local seq, id, message = args[i], args[i + 1], args[i + 2]
        if id == '' or redis.call('ZADD', keys[4], 'NX', text(now), id) == 1 then
          last = last + 1
          redis.call('XADD', keys[2], text(last) .. '-' .. seq, hex, message)
          published[#published + 1] = #message .. ' ' .. seq .. '\n'
          published[#published + 1] = message
          size = size + #message
        end
        if id ~= '' then
          redis.call('ZREMRANGEBYSCORE', keys[4], '-inf', '(' .. text(now - age))
          redis.call('ZREMRANGEBYRANK', keys[4], 0, -MAX_IDS - 1)
          redis.call('PEXPIRE', keys[4], text(age))
        end
      end
      redis.call('HSET', keys[k], 'epoch', epoch, 'seen', seen)
      redis.call('PEXPIRE', keys[k], memory)
      if #published > 1 then
        redis.call('SPUBLISH', args[1], table.concat(published))
      end
      outcomes[#outcomes + 1] = 1
    end
    at = at + 3 * n
  end
  if last > began then
    redis.call('HSET', keys[1], 'last', text(last))
    trim(keys, last, size, now, bytes, age)
    -- A producer that writes nothing more is past its time all at once.
    redis.call('PEXPIRE', keys[2], text(age))
    redis.call('PEXPIRE', keys[3], text(age))
  end
  return outcomes
end

-- KEYS meta, log   ARGV log epoch   ->  {lives, first offset kept, last offset given out}
local function head(keys, args)
  local last, lives = enter(keys[1], args[1])
  local oldest = redis.call('XRANGE', keys[2], '-', '+', 'COUNT', 1)
  local first = text(last + 1)
  if oldest[1] then
    first = string.match(oldest[1][1], '^%d+')
  end
  return {lives, first, text(last)}
end

redis.register_function('motience_2_open', open)
redis.register_function('motience_2_append', append)
redis.register_function('motience_2_head', head)
