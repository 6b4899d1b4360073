-- Removing the oldest parts of a log; both in the library and in the script that sweeps (log/redis/functions.rs).

local function text(number)
  return string.format('%.0f', number)
end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Does what the caller can do without. A failure is noted, and `nil` returned.
local function attempt(notes, ...)
  local answer = redis.pcall(...)
  if type(answer) == 'table' and answer.err then
    notes[#notes + 1] = select(1, ...) .. ': ' .. answer.err
    return nil
  end
  return answer
end

-- Offset of the first record of an entry: see the head of motience.lua.
local function first_of(entry)
  local last, count = string.match(entry[1], '^(%d+)-(%d+)$')
  if string.sub(entry[2][1], 1, 1) == '=' then
    return tonumber(last) - tonumber(count) + 1
  end
  return tonumber(last)
end

-- Removes the parts that are too old or that nobody has room for. Returns how many records those are, when the last of them came, and how many
-- bytes the log had up to there.
local function trim(log, marks, total, now, bytes, age, notes)
  local gone, gone_at, gone_sum, passed = nil, nil, nil, 0
  while true do
    local oldest = attempt(notes, 'LINDEX', marks, passed)
    if not oldest then
      break
    end
    local offset, sum, at = string.match(oldest, '^(%d+) (%d+) (%d+)$')
    if total - tonumber(sum) < bytes and now - tonumber(at) <= age then
      break
    end
    gone, gone_at, gone_sum, passed = tonumber(offset), at, sum, passed + 1
  end
  local oldest = gone and attempt(notes, 'XRANGE', log, '-', text(gone + 1), 'COUNT', 1)
  local removed = gone and attempt(notes, 'XTRIM', log, 'MINID', text(gone + 1))
  if not removed then
    return 0, nil
  end
  attempt(notes, 'LPOP', marks, passed)
  return removed > 0 and oldest and gone + 1 - first_of(oldest[1]) or 0, gone_at, gone_sum
end
