-- KEYS meta, log, marks   ARGV bytes kept, age kept in ms, thousandths kept of what that leaves   ->  records removed
-- Runs also where Redis is full, and therefore writes nothing that takes room.
local bytes, age, keep = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local total = tonumber(redis.call('HGET', KEYS[1], 'total') or '0')
local removed, gone_at, gone_sum = trim(KEYS[2], KEYS[3], total, now_ms(), bytes, age, {})
if keep < 1000 then
  local oldest = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
  local newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
  if oldest then
    local first, last = first_of(oldest), tonumber(string.match(newest[1], '^%d+'))
    local from = last + 1 - math.floor((last - first + 1) * keep / 1000)
    redis.call('XTRIM', KEYS[2], 'MINID', text(from))
    local left = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
    removed, gone_at = removed + (left and first_of(left) or last + 1) - first, text(now_ms())
    while true do
      local mark = redis.call('LINDEX', KEYS[3], 0)
      if not mark or tonumber(string.match(mark, '^%d+')) >= from then
        break
      end
      redis.call('LPOP', KEYS[3])
      gone_sum = string.match(mark, '^%d+ (%d+)')
    end
  end
end
-- For readers who ask for a time: whether anything of it or later is gone.
if gone_at then
  redis.pcall('HSET', KEYS[1], 'gone_at', gone_at)
end
if gone_sum then
  redis.pcall('HSET', KEYS[1], 'gone', gone_sum)
end
-- A log whose last writer did not come to it.
if redis.call('PTTL', KEYS[2]) == -1 then
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
end
return removed
