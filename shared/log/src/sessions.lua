-- The log's memory of its senders, within bounds. In the library only, between trim.lua and motience.lua.
--
-- roster   m:ID:{P-LOG}:devices, :passing   sorted sets of the names of senders that come back, and of those that do not
--
-- A score is a time, in milliseconds since 1970, times 1024, plus what the session takes in steps of 64 bytes. While
-- the sender is connected, the time is that at which its lease ends: its node renews the lease, so that of a node that crashed it
-- runs out. Afterwards it is the time at which the connection ended. So whoever comes first in a roster is the longest idle, and
-- whoever has a time to come is connected. `windows` in meta is the sum of what the devices' sessions take.
--
-- Whatever a call changes in that sum, and the sessions that it has chosen to go, are written by the one HSET of meta, and
-- carried out by `pay`.

local SCALE, STEP = 1024, 64
-- Bytes that a session counts beside its name and its dedup window (SESSION_BYTES in log/mod.rs).
local SESSION = 64
-- Sessions that one call may evict beyond those that it has made idle. Each that opens adds one at most, so the rosters come down to
-- their bounds.
local AT_ONCE = 16

-- The part of a call that has to do with sessions. `bounds`: most sessions in a roster, most bytes that they take, lease in ms.
local function ledger(keys, at, now, bounds)
  return {prefix = string.sub(keys[1], 1, -#'meta' - 1) .. 's:', devices = keys[at], passing = keys[at + 1], now = now,
    most = tonumber(bounds[1]), room = tonumber(bounds[2]) / STEP, lease = tonumber(bounds[3]),
    touched = {}, added = {}, scores = {}, gone = {}, why = {count = 0, bytes = 0, age = 0}}
end

local function find(book, key)
  local name = string.sub(key, #book.prefix + 1)
  local roster = string.sub(name, 1, 2) == 'p:' and book.passing or book.devices
  return roster, name, tonumber(redis.call('ZSCORE', roster, name) or nil)
end

-- Notes that the sender of this session is connected and that its dedup window has become `window`. Writes nothing: `scores` of the book
-- is what `pay` has to write.
local function connected(book, log, key, window, memory)
  local roster, name, held = find(book, key)
  local before = held and held % SCALE or 0
  -- Nobody comes back under a passing name, and the windows of those who are there are bounded each.
  local size = roster == book.devices and math.min(SCALE - 1, math.ceil((SESSION + #name + #window) / STEP)) or 0
  if not held then
    if redis.call('ZCARD', roster) == 0 and roster == book.devices and not book.added[roster] then
      -- All of them were forgotten, at the end of their time.
      log.windows = 0
    end
    book.added[roster] = (book.added[roster] or 0) + 1
  end
  log.windows = math.max(0, log.windows + size - before)
  book.touched[name] = true
  local left = held and math.floor(held / SCALE) - book.now or 0
  -- A lease that has long to run is not renewed with each append.
  if size ~= before or left < book.lease / 2 then
    book.scores[#book.scores + 1] = {roster, text((book.now + book.lease) * SCALE + size), name, memory}
  end
end

-- Chooses the sessions of a roster that have to go: those whose time is over, and the longest idle where there are too many, or
-- where they take too much. One that is connected stays. `idle`: how many the call has made idle.
local function choose(book, log, roster, memory, idle)
  -- Nobody comes back under a passing name.
  memory = roster == book.devices and tonumber(memory) or 0
  local count = redis.call('ZCARD', roster) + (book.added[roster] or 0)
  local oldest = redis.call('ZRANGE', roster, 0, AT_ONCE + idle - 1, 'WITHSCORES')
  local names = {}
  for i = 1, #oldest, 2 do
    local name, score = oldest[i], tonumber(oldest[i + 1])
    local time, why = math.floor(score / SCALE), nil
    if time + memory < book.now then
      why = 'age'
    elseif time <= book.now and count > book.most then
      why = 'count'
    elseif time <= book.now and log.windows > book.room then
      why = 'bytes'
    else
      break
    end
    if not book.touched[name] then
      names[#names + 1] = name
      count = count - 1
      log.windows = math.max(0, log.windows - score % SCALE)
      book.why[why] = book.why[why] + 1
    end
  end
  if #names > 0 then
    book.gone[#book.gone + 1] = {roster, book.prefix, names}
  end
end

-- Writes the places of sessions in their rosters. May be repeated.
local function enroll(scores)
  for _, one in ipairs(scores) do
    redis.call('ZADD', one[1], one[2], one[3])
    redis.call('PEXPIRE', one[1], one[4])
  end
end

-- Removes the sessions that were chosen. May be repeated.
local function remove(gone)
  for _, one in ipairs(gone) do
    local keys = {}
    for i, name in ipairs(one[3]) do
      keys[i] = one[2] .. name
    end
    redis.call('UNLINK', unpack(keys))
    redis.call('ZREM', one[1], unpack(one[3]))
  end
end

-- How many sessions were chosen to go, and why: because there were too many, because of what they take, because of their age.
local function reasons(book)
  return {book.why.count, book.why.bytes, book.why.age}
end
