-- The log's atomic steps. Every key of a producer carries its hash tag, so each call runs on one shard. The first line, which
-- names the library, trim.lua and sessions.lua come before it when it is loaded (log/redis/functions.rs).
--
-- meta     m:ID:{P-LOG}:meta   hash: birth, life (the present one), lives ('LIFE:BEGAN,...', oldest first), last offset, total bytes,
--                       bytes and time at the last mark, redo (what the newest call still owes to other keys; '' for nothing),
--                       time of the last that was removed and the bytes up to there, the newest fence of all senders, what the devices' sessions take
-- log      m:ID:{P-LOG}:log    stream; an entry is a chunk of consecutive records (log/redis/chunk.rs). Its id is LAST-COUNT: offset of the
--                       last one, and how many there are. The one field is '=', the sender's epoch (hex), and the places of records of the
--                       chunk that are not in the log ('PLACE,...' from 0). Nodes of the last version wrote an entry for each record:
--                       id OFFSET-SEQ, the field is the epoch, its value the message and, behind it, when it came: 11 hexadecimal digits
--                       of milliseconds since 1970 (nodes of the first release wrote none)
-- marks    m:ID:{P-LOG}:marks  list of 'OFFSET TOTAL TIME', oldest first: where the log is cut when it is trimmed
-- ids      m:ID:{P-LOG}:ids    sorted set of clients' own ids by time
-- session  m:ID:{P-LOG}:s:NAME hash: life (of the log, in which the fence was raised), owner (who raised it), fence, epoch, seen,
--                       and epoch2, seen2: those that it had before
-- roster   m:ID:{P-LOG}:devices, :passing   sorted sets of the sessions (sessions.lua)
-- fresh, staged  m:ID:{P-LOG}:fresh, :staged   while records are erased: the stream as it will be, and a hash with the chunks that will be others
-- channel  m:ID:{P-LOG}:live   shard channel; one message for each chunk
--
-- A life of a producer's log is named by the server's epoch (which server this is, and since when it is the master; below
-- 2^52) plus the log's birth in microseconds. The epoch alone would miss FLUSHALL on a running server, the birth alone a
-- log that lost its tail. In a cluster a log may come back to a server where it has been: the sum was a life already, and the next free
-- number is taken.
--
-- Any command can fail (a rule of the ACL, a key of a wrong type), and Redis takes nothing back. So one HSET of meta is the
-- moment at which an append takes place. Entries beyond `last` are not in the log: nobody reads them, and whoever writes next
-- removes them. That HSET also writes the debts of the append to other keys, and whoever comes next pays those that were not paid
-- at once. Sessions that are opened, and those that have to go, are treated alike.
--
-- Fences are counted for a log, not for a sender: one that was evicted and comes back is given no number that an older connection of
-- it still has.
--
-- Numbers above 2^53 do not survive Lua: senders' epochs are passed on as text. Offsets, lives and times stay below.

local MAX_LIVES = 32
-- A log that comes back to its server gets one of so many names.
local MAX_NAMES = 64
local MAX_IDS = 100000
local PARTS = 64
-- The highest number of an entry with the same offset.
local HIGHEST = '-18446744073709551615'
-- First byte of a compressed chunk.
local COMPRESSED = 2
-- How long what an erasure has prepared is kept, in ms.
local ERASING = 3600000
-- Entries read in one step: few, since each may hold some ten thousand bytes.
local STRIDE = 16

-- Lives with one more, which began after `last`. Of lives too old to be remembered the lowest beginning is, with the oldest
-- that still is.
local function with_life(lives, life, last)
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
  return table.concat(all, ',')
end

-- Name of the present life of a log, and whether that has begun.
local function present(epoch, birth, life, lives)
  local name = tonumber(epoch) + tonumber(birth)
  local past = life and tonumber(life) - name
  if past and past >= 0 and past < MAX_NAMES then
    return life, true
  end
  while string.find(',' .. lives, ',' .. text(name) .. ':', 1, true) do
    name = name + 1
  end
  return text(name), false
end

-- The log as it is; writes nothing. An unborn log is in life 0, which every reader of it leaves at its birth.
local function look(keys, epoch)
  local held = redis.call('HMGET', keys[1], 'birth', 'life', 'lives', 'last', 'total', 'marked', 'since', 'redo', 'fence', 'windows')
  local log = {birth = held[1], lives = held[3] or '', last = tonumber(held[4] or '0'), total = tonumber(held[5] or '0'),
    marked = tonumber(held[6] or '0'), since = tonumber(held[7]), redo = held[8], fence = tonumber(held[9] or '0'),
    windows = tonumber(held[10] or '0')}
  log.life, log.begun = '0', false
  if log.birth then
    log.life, log.begun = present(epoch, log.birth, held[2], log.lives)
  end
  if not log.redo then
    -- Meta was lost, or is of an earlier release, which wrote the last offset after the entries: all that is there counts.
    local newest = redis.call('XREVRANGE', keys[2], '+', '-', 'COUNT', 1)[1]
    local top = newest and tonumber(string.match(newest[1], '^%d+')) or 0
    log.last = math.max(log.last, top)
  end
  if log.birth and not log.begun then
    log.lives = with_life(log.lives, log.life, log.last)
  end
  return log
end

-- Pays what a call owes to other keys. May be repeated. Debts that an earlier release left have neither scores, nor any that are
-- gone, nor fences.
local function pay(meta, owed)
  remove(owed.gone or {})
  for _, one in ipairs(owed.sessions) do
    local key, epoch, seen, memory, life, owner, fence, other, others = unpack(one)
    if fence then
      redis.call('HSET', key, 'life', life, 'owner', owner, 'fence', fence, 'epoch', epoch, 'seen', seen, 'epoch2', other or '',
        'seen2', others or '')
    else
      redis.call('HSET', key, 'epoch', epoch, 'seen', seen)
    end
    redis.call('PEXPIRE', key, memory)
  end
  enroll(owed.scores or {})
  for _, id in ipairs(owed.ids) do
    redis.call('ZADD', owed.key, owed.now, id)
  end
  if #owed.ids > 0 then
    redis.call('PEXPIRE', owed.key, owed.age)
  end
  redis.call('HSET', meta, 'redo', '')
end

-- Makes the log ready to be written: settles what a failed step left, and begins the present life where it has not begun.
local function enter(keys, epoch)
  local log = look(keys, epoch)
  if log.redo and log.redo ~= '' then
    pay(keys[1], cmsgpack.unpack(log.redo))
  end
  if log.redo then
    local first = text(log.last + 1) .. '-0'
    while #redis.call('XREVRANGE', keys[2], '+', first, 'COUNT', 1) > 0 do
      for _, entry in ipairs(redis.call('XRANGE', keys[2], first, '+', 'COUNT', 100)) do
        redis.call('XDEL', keys[2], entry[1])
      end
    end
  end
  if not log.begun then
    if not log.birth then
      local time = redis.call('TIME')
      log.birth = text(time[1] * 1000000 + time[2])
      log.life = text(tonumber(epoch) + tonumber(log.birth))
      log.lives = with_life(log.lives, log.life, log.last)
    end
    redis.call('HSET', keys[1], 'birth', log.birth, 'life', log.life, 'lives', log.lives, 'last', text(log.last), 'redo', '')
    log.begun = true
  end
  return log
end

-- Debts of a call to keys other than meta, before it has any records.
local function debts(book)
  return {ids = {}, sessions = {}, scores = book.scores, gone = book.gone}
end

-- KEYS meta, log, devices, passing, session
-- ARGV server's epoch, most sessions, bytes of windows, lease in ms, sender's epoch, owner, life of the owner's last fence or '',
--   memory in ms
-- -> {life, fence, seen, {evicted}}, {'fenced'} or {'stale'}
local function open(keys, args)
  local log = enter(keys, args[1])
  local key, epoch, owner, memory = keys[5], args[5], args[6], args[8]
  local state = redis.call('HMGET', key, 'life', 'owner', 'fence', 'epoch', 'seen', 'epoch2', 'seen2')
  if args[7] ~= '' and state[1] == log.life and state[2] ~= owner then
    -- Somebody else opened in this life. Who came later is known only where both did.
    return {args[7] == log.life and 'fenced' or 'stale'}
  end
  -- The window of the epoch before is kept: a connection of a process that is gone may be dealt with late, and must not have the
  -- sender's present window forgotten.
  local seen, other, others = '', state[6] or '', state[7] or ''
  if state[4] == epoch then
    seen = state[5] or ''
  else
    if other == epoch then
      seen = others
    end
    other, others = state[4] or '', state[5] or ''
  end
  local raised = text(math.max(log.fence, tonumber(state[3] or '0')) + 1)
  local book = ledger(keys, 3, now_ms(), {args[2], args[3], args[4]})
  connected(book, log, key, seen, memory)
  local roster = find(book, key)
  choose(book, log, roster, memory, 0)
  local owed = debts(book)
  owed.sessions[1] = {key, epoch, seen, memory, log.life, owner, raised, other, others}
  redis.call('HSET', keys[1], 'fence', raised, 'windows', text(log.windows), 'redo', cmsgpack.pack(owed))
  pay(keys[1], owed)
  return {log.life, raised, seen, reasons(book)}
end

-- KEYS meta, log, devices, passing, session...
-- ARGV server's epoch, most sessions, bytes of windows, lease in ms, how long devices are remembered in ms, 1 where the connections
--   last and 0 where they have ended, then for each session: owner, memory in ms
-- -> {evicted}
--
-- A session that another connection has taken over is left alone.
local function keep(keys, args)
  local own = {}
  for k = 5, #keys do
    if redis.call('HGET', keys[k], 'owner') == args[2 * k - 3] then
      own[#own + 1] = k
    end
  end
  local book = ledger(keys, 3, now_ms(), {args[2], args[3], args[4]})
  if #own == 0 then
    return reasons(book)
  end
  local log = enter(keys, args[1])
  local ended = {}
  for _, k in ipairs(own) do
    local roster, name, held = find(book, keys[k])
    local memory = args[2 * k - 2]
    if args[6] == '1' then
      enroll({{roster, text((book.now + book.lease) * SCALE + (held or 0) % SCALE), name, memory}})
      redis.call('PEXPIRE', keys[k], memory)
    elseif roster == book.passing then
      ended[#ended + 1] = name
    else
      enroll({{roster, text(book.now * SCALE + (held or 0) % SCALE), name, memory}})
    end
  end
  if #ended > 0 then
    book.gone[1] = {book.passing, book.prefix, ended}
  end
  choose(book, log, book.devices, args[5], #own)
  if #book.gone > 0 then
    local owed = debts(book)
    redis.call('HSET', keys[1], 'windows', text(log.windows), 'redo', cmsgpack.pack(owed))
    pay(keys[1], owed)
  end
  return reasons(book)
end

-- Adds an entry. Entries that were removed leave their ids behind as the lowest that Redis takes: these are taken back.
local function add(key, last, count, field, chunk)
  local id = text(last) .. '-' .. count
  local added = redis.pcall('XADD', key, id, field, chunk)
  if type(added) == 'table' and added.err then
    if not string.find(added.err, 'equal or smaller', 1, true) then
      error(added)
    end
    redis.call('XSETID', key, text(last - count) .. HIGHEST)
    redis.call('XADD', key, id, field, chunk)
  end
end

-- KEYS meta, log, marks, ids, devices, passing, session...
-- ARGV channel, server's epoch, bytes kept, age kept in ms, most sessions, bytes of windows, lease in ms, then for each session:
--   life and number of the fence, epoch, epoch in hex, seen, memory in ms, number of chunks, then for each chunk: number of records,
--   bytes of their messages, seal, the chunk, number of clients' ids, then for each of them: place in the chunk from 0, id
-- -> {for each session 1, or -1 where its fence is not the newest, or -2 where it was raised in an earlier life, or the session was
--   forgotten}, {notes}, {evicted}
--
-- Published messages are sealed (log/redis/seal.rs): the sender's node knows all but the place that the records are given here, and
-- lends a key for it, which is never published.
local function append(keys, args)
  local outcomes, notes, published = {}, {}, {}
  local log = enter(keys, args[2])
  local now, bytes, age = now_ms(), tonumber(args[3]), tonumber(args[4])
  local book = ledger(keys, 5, now, {args[5], args[6], args[7]})
  local owed = debts(book)
  owed.key, owed.now, owed.age = keys[4], text(now), text(age)
  local last, total, taken, windows, longest = log.last, log.total, {}, log.windows, 0
  local at = 8
  for k = 7, #keys do
    local raised_in, fence, epoch, hex, seen, memory, chunks = unpack(args, at, at + 6)
    at = at + 7
    local held = redis.call('HMGET', keys[k], 'life', 'fence')
    local outcome = 1
    if raised_in ~= log.life or held[1] ~= log.life then
      outcome = -2
    elseif held[2] ~= fence then
      outcome = -1
    end
    for _ = 1, chunks do
      local n, size, seal, chunk, ids = unpack(args, at, at + 4)
      at = at + 5
      if outcome == 1 then
        local omitted = {}
        for i = at, at + 2 * ids - 1, 2 do
          local id = args[i + 1]
          local known = taken[id] or redis.call('ZSCORE', keys[4], id)
          if known and (known == true or tonumber(known) >= now - age) then
            omitted[#omitted + 1] = args[i]
          else
            taken[id] = true
            owed.ids[#owed.ids + 1] = id
          end
        end
        local count = n - #omitted
        if count > 0 then
          local first = text(last + 1)
          omitted = table.concat(omitted, ',')
          last = last + count
          add(keys[2], last, count, '=' .. hex .. omitted, chunk)
          total = total + size
          local place = redis.sha1hex(seal .. ' ' .. first .. ' ' .. omitted .. ' ' .. seal)
          published[#published + 1] = log.life .. ' ' .. first .. ' ' .. hex .. ' ' .. place .. ' ' .. omitted .. '\n' .. chunk
        end
      end
      at = at + 2 * ids
    end
    if outcome == 1 then
      connected(book, log, keys[k], seen, memory)
      longest = math.max(longest, tonumber(memory))
      owed.sessions[#owed.sessions + 1] = {keys[k], epoch, seen, memory}
    end
    outcomes[#outcomes + 1] = outcome
  end
  local marked, since = log.marked, log.since or now
  local mark = last > log.last and (total - marked >= math.max(1, bytes / PARTS) or now - since >= age / PARTS)
  if mark then
    marked, since = total, now
  end
  if log.windows > windows and log.windows > book.room then
    choose(book, log, book.devices, longest, 0)
  end
  if last > log.last then
    -- A producer that writes nothing more is past its time all at once.
    redis.call('PEXPIRE', keys[2], text(age))
  end
  if #owed.sessions > 0 then
    redis.call('HSET', keys[1], 'last', text(last), 'total', text(total), 'marked', text(marked), 'since', text(since),
      'windows', text(log.windows), 'redo', cmsgpack.pack(owed))
    pay(keys[1], owed)
  end
  for _, message in ipairs(published) do
    attempt(notes, 'SPUBLISH', args[1], message)
  end
  if #owed.ids > 0 then
    attempt(notes, 'ZREMRANGEBYSCORE', keys[4], '-inf', '(' .. text(now - age))
    attempt(notes, 'ZREMRANGEBYRANK', keys[4], 0, -MAX_IDS - 1)
  end
  if mark and attempt(notes, 'RPUSH', keys[3], text(last) .. ' ' .. text(total) .. ' ' .. text(now)) then
    attempt(notes, 'PEXPIRE', keys[3], text(age))
  end
  if last > log.last then
    local _, gone_at, gone = trim(keys[2], keys[3], total, now, bytes, age, notes)
    if gone_at then
      -- For readers who ask for a time: whether anything of it or later is gone; and how many bytes are.
      attempt(notes, 'HSET', keys[1], 'gone_at', gone_at, 'gone', gone)
    end
  end
  return {outcomes, notes, reasons(book)}
end

-- Bytes of an entry's records: a compressed chunk says how long it is (log/redis/chunk.rs).
local function size_of(entry)
  local field, value = entry[2][1], entry[2][2]
  if string.sub(field, 1, 1) == '=' and #value > 4 and string.byte(value) == COMPRESSED then
    return struct.unpack('>I4', value, 2)
  end
  return #value
end

-- KEYS meta, log   ARGV server's epoch, first id wanted, about how many bytes are wanted   ->  {life, entries}
local function read(keys, args)
  local log = look(keys, args[1])
  local from, room, found = args[2], tonumber(args[3]), {}
  repeat
    local some = redis.call('XRANGE', keys[2], from, text(log.last) .. HIGHEST, 'COUNT', STRIDE)
    for _, entry in ipairs(some) do
      if room <= 0 then
        break
      end
      found[#found + 1] = entry
      room = room - size_of(entry)
      from = '(' .. entry[1]
    end
  until room <= 0 or #some < STRIDE
  return {log.life, found}
end

-- KEYS meta, log   ARGV server's epoch   ->  {lives, first offset kept, last offset given out, 1 where the present life has begun}
local function head(keys, args)
  local log = look(keys, args[1])
  local oldest = redis.call('XRANGE', keys[2], '-', text(log.last) .. HIGHEST, 'COUNT', 1)
  local first = text(log.last + 1)
  if oldest[1] then
    first = text(first_of(oldest[1]))
  end
  return {log.lives, first, text(log.last), log.begun and 1 or 0}
end

-- KEYS staged   ARGV for each entry that is to be another: id, value
local function stage(keys, args)
  redis.call('HSET', keys[1], unpack(args))
  redis.call('PEXPIRE', keys[1], ERASING)
  return 1
end

-- KEYS meta, log, fresh, staged   ARGV server's epoch, edition of the log, entries that are staged, bytes copied in one step   ->  'more', 'done' or 'moved'
--
-- A stream takes nothing in its middle. So it is copied, some entries with each call, with the staged values in place of others; the call that
-- comes to the end puts the copy in the place of the log. An edition that is another's: somebody has done so meanwhile, or the log was lost.
local function rewrite(keys, args)
  local log, room = look(keys, args[1]), tonumber(args[4])
  if (redis.call('HGET', keys[1], 'edition') or '0') ~= args[2] or redis.call('HLEN', keys[4]) ~= tonumber(args[3]) then
    redis.call('UNLINK', keys[3], keys[4])
    return 'moved'
  end
  local newest = redis.call('XREVRANGE', keys[3], '+', '-', 'COUNT', 1)[1]
  local from = newest and '(' .. newest[1] or '-'
  repeat
    local some = redis.call('XRANGE', keys[2], from, text(log.last) .. HIGHEST, 'COUNT', STRIDE)
    for _, entry in ipairs(some) do
      local value = redis.call('HGET', keys[4], entry[1]) or entry[2][2]
      redis.call('XADD', keys[3], entry[1], entry[2][1], value)
      room = room - #entry[2][2]
      from = '(' .. entry[1]
    end
  until room <= 0 or #some < STRIDE
  if room <= 0 then
    redis.call('PEXPIRE', keys[3], ERASING)
    return 'more'
  end
  local oldest = redis.call('XRANGE', keys[2], '-', '+', 'COUNT', 1)[1]
  local left = redis.call('PTTL', keys[2])
  redis.call('UNLINK', keys[4])
  if oldest and redis.call('EXISTS', keys[3]) == 1 then
    redis.call('XTRIM', keys[3], 'MINID', oldest[1])
    redis.call('HINCRBY', keys[1], 'edition', 1)
    redis.call('RENAME', keys[3], keys[2])
    if left > 0 then
      redis.call('PEXPIRE', keys[2], text(left))
    else
      redis.call('PERSIST', keys[2])
    end
  else
    redis.call('UNLINK', keys[3])
  end
  return 'done'
end

-- KEYS meta, log   ARGV server's epoch
local function begin(keys, args)
  return enter(keys, args[1]).life
end

-- Refused wherever an append would be: Redis full, read-only, without its replicas, or not able to persist.
local function probe()
  return 1
end

redis.register_function('LIBRARY_open', open)
redis.register_function('LIBRARY_append', append)
redis.register_function('LIBRARY_keep', keep)
redis.register_function('LIBRARY_begin', begin)
redis.register_function('LIBRARY_stage', stage)
redis.register_function('LIBRARY_rewrite', rewrite)
redis.register_function('LIBRARY_probe', probe)
redis.register_function{function_name = 'LIBRARY_read', callback = read, flags = {'no-writes'}}
redis.register_function{function_name = 'LIBRARY_head', callback = head, flags = {'no-writes'}}
