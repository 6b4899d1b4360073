#!lua name=motience_2
-- The log's atomic steps. Every key of a producer carries its hash tag, so each call runs on one shard.
--
-- meta     m:{P}:meta   hash: birth, last offset, lives ('LIFE:BEGAN,...', oldest first), total bytes, bytes and time at the last mark
-- log      m:{P}:log    stream; entry ids are OFFSET-SEQ; the one field is the sender's epoch (hex), its value the message
-- marks    m:{P}:marks  list of 'OFFSET TOTAL TIME', oldest first: where the log is cut when it is trimmed
-- ids      m:{P}:ids    sorted set of clients' own ids by time
-- session  m:{P}:s:NAME hash: life (of the log, in which the fence was raised), owner (who raised it), fence, epoch, seen
-- channel  m:{P}:live   shard channel; one message for each appended section
--
-- A life of a producer's log is named by the server's epoch (which server this is, and since when it is the master; below
-- 2^52) plus the log's birth in microseconds. The epoch alone would miss FLUSHALL on a running server, the birth alone a
-- log that lost its tail.
--
-- Numbers above 2^53 do not survive Lua: senders' epochs are passed on as text. Offsets, lives and times stay below.

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

-- The name of the present life of a log. Without a log there is none yet, and it would be any that is new.
local function life_of(meta, epoch)
  local birth = redis.call('HGET', meta, 'birth')
  if not birth then
    local time = redis.call('TIME')
    birth = text(time[1] * 1000000 + time[2])
  end
  return text(tonumber(epoch) + tonumber(birth)), birth
end

-- Begins the present life where it has not begun. Returns last offset, lives and the present one's name. Of lives too old
-- to be remembered the lowest beginning is, with the oldest that still is.
local function enter(meta, epoch)
  local life, birth = life_of(meta, epoch)
  local state = redis.call('HMGET', meta, 'last', 'lives')
  local last, lives = tonumber(state[1] or '0'), state[2] or ''
  if string.match(lives, '(%d+):%d+$') == life then
    return last, lives, life
  end
  local all = {}
  for name, began in string.gmatch(lives, '(%d+):(%d+)') do
    all[#all + 1] = {name, tonumber(began)}
  end
  all[#all + 1] = {life, last}
  if #all > MAX_LIVES then
    local oldest = table.remove(all, 1)
    all[1][2] = math.min(all[1][2], oldest[2])
  end
  for i, one in ipairs(all) do
    all[i] = one[1] .. ':' .. text(one[2])
  end
  lives = table.concat(all, ',')
  redis.call('HSET', meta, 'birth', birth, 'last', text(last), 'lives', lives)
  return last, lives, life
end

-- KEYS meta, session   ARGV server's epoch, sender's epoch, owner, life of the owner's last fence or '', memory in ms
-- -> {life, fence, seen}, {'fenced'} or {'stale'}
local function open(keys, args)
  local _, _, life = enter(keys[1], args[1])
  local state = redis.call('HMGET', keys[2], 'life', 'owner', 'fence', 'epoch', 'seen')
  if args[4] ~= '' and state[1] == life and state[2] ~= args[3] then
    -- Somebody else opened in this life. Who came later is known only where both did.
    return {args[4] == life and 'fenced' or 'stale'}
  end
  local seen = ''
  if state[4] == args[2] then
    seen = state[5] or ''
  end
  local raised = text(tonumber(state[3] or '0') + 1)
  redis.call('HSET', keys[2], 'life', life, 'owner', args[3], 'fence', raised, 'epoch', args[2], 'seen', seen)
  redis.call('PEXPIRE', keys[2], args[5])
  return {life, raised, seen}
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
-- ARGV channel, server's epoch, bytes kept, age kept in ms, then for each session:
--   life and number of the fence, epoch, epoch in hex, seen, memory in ms, n, then n times: seq, client's id or '', message
-- -> for each session 1, or -1 where its fence is not the newest, or -2 where it was raised in an earlier life
local function append(keys, args)
  local outcomes = {}
  local last, _, life = enter(keys[1], args[2])
  local bytes, age = tonumber(args[3]), tonumber(args[4])
  local size, now, began = 0, now_ms(), last
  local at = 5
  for k = 5, #keys do
    local raised_in, fence, epoch, hex = args[at], args[at + 1], args[at + 2], args[at + 3]
    local seen, memory, n = args[at + 4], args[at + 5], tonumber(args[at + 6])
    at = at + 7
    local held = redis.call('HMGET', keys[k], 'life', 'fence')
    if raised_in ~= life or held[1] ~= life then
      outcomes[#outcomes + 1] = -2
    elseif held[2] ~= fence then
      outcomes[#outcomes + 1] = -1
    else
      local published = {life .. ' ' .. text(last + 1) .. ' ' .. hex .. '\n'}
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

-- KEYS meta, log   ARGV server's epoch, first id wanted, most entries wanted   ->  {life, entries}
local function read(keys, args)
  return {(life_of(keys[1], args[1])), redis.call('XRANGE', keys[2], args[2], '+', 'COUNT', args[3])}
end

-- KEYS meta, log   ARGV server's epoch   ->  {lives, first offset kept, last offset given out}
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
redis.register_function{function_name = 'motience_2_read', callback = read, flags = {'no-writes'}}
redis.register_function('motience_2_head', head)
