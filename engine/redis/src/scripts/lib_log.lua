-- Places in a log of commands. The server gives them out by its own clock, and goes on from the last where that is ahead of
-- it. Whoever may write there can choose one that lies so far ahead that no position can hold what comes after it. What lies
-- more than a day ahead is therefore no place: readers never come there, and the next command removes it.
local t = redis.call('TIME')
local here = t[1] * 1000 + math.floor(t[2] / 1000)
local day_ahead = here + 86400000

local function time_of(place)
  return tonumber(string.match(place, '^%d+'))
end

local function number_of(place)
  return tonumber(string.match(place, '%d+$'))
end

local function is_beyond(place)
  return time_of(place) > day_ahead
end

-- The place of the newest command there ever was; '' without a log.
local function last_place(log)
  if redis.call('EXISTS', log) == 1 then
    local info = redis.call('XINFO', 'STREAM', log)
    for n = 1, #info, 2 do
      if info[n] == 'last-generated-id' then
        return info[n + 1]
      end
    end
  end
  return ''
end
