-- KEYS bucket   ARGV parts wanted, parts that come a second   ->  parts granted, parts granted since the bucket was made
-- The bucket holds half a second's worth. Whoever wants more than it holds gets half, so that others who ask next find some.
local want, rate = tonumber(ARGV[1]), tonumber(ARGV[2])
local most = math.max(rate / 2, 1000)
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + tonumber(time[2]) / 1000
local there = redis.call('HMGET', KEYS[1], 'at', 'parts', 'total')
local at, parts, total = tonumber(there[1] or now), tonumber(there[2] or most), tonumber(there[3] or 0)
parts = math.min(most, parts + math.max(0, now - at) * rate / 1000)
local granted = want
if want > parts then
  granted = math.floor(parts / 2)
end
redis.call('HSET', KEYS[1], 'at', string.format('%.3f', now), 'parts', string.format('%.3f', parts - granted), 'total', string.format('%.0f', total + granted))
redis.call('PEXPIRE', KEYS[1], 60000)
return {granted, total + granted}
