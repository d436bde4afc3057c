-- Finding runs without reading those that do not fit.

-- script page
-- ARGV: an id or "". Gives the page that holds the ids before it: its name and its ids.

-- with base

local page = call('ZREVRANGEBYLEX', base .. ':pages', ARGV[1] == '' and '+' or '(' .. ARGV[1], '-', 'LIMIT', 0, 1)[1]
return page and {page, call('GET', base .. ':page:' .. page) or ''}

-- script among
-- ARGV: how many, now, base route or "", state letter ("l" is queued for later) or "", the most bytes of a result or ""
-- (then records are not brief), ids.
-- Gives how many of the ids it looked at, then the records of the first ones that fit. Of those that do not fit it reads
-- neither envelope nor result: sets tell the state, and the route of what is open; of what has ended, counts tell the
-- route, unless such runs are on several, or there are very many routes. It stops when it has read much, so that others
-- are served in between.

-- with base fields head mend claim budget record counts

local limit, now, route, letter, most = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4], tonumber(ARGV[5])
local FEW_ROUTES = 16
local RUN, DONE = base .. ':run', base .. ':done'
local records, envelope = {}
local routes, elsewhere = {}, {} -- of open runs, where they may be; by letter, whether there are runs on other routes
local names, is_all
if route ~= '' or letter == 'l' then names, is_all = counts_of(route, 1000) end
if not is_all then elsewhere = {s = true, f = true, c = true} end

for _, name in ipairs(names or {}) do
  local state, own = string.sub(name, 1, 1), string.sub(name, 2)
  if route ~= '' and string.match(own, '^[^^]*') ~= route then
    elsewhere[state] = true
  elseif (state == 'q' or state == 'r') and not routes[own] then
    routes[own] = true
    routes[#routes + 1] = own
  end
end

local function lane_read(id, letters)
  envelope = call('HGET', RUN, id)
  read = read + #envelope
  return lane_of(id, envelope, letters)
end

-- When an open run on a route that is asked for ripens; nothing, where it is on another.
local function ripe_of(id)
  if not names or #routes > FEW_ROUTES then
    local own = lane_read(id)
    return (route == '' or string.match(own, '^[^^]*') == route) and call('ZSCORE', base .. ':ripe:' .. own, id)
  end
  for _, own in ipairs(routes) do
    local ripe = call('ZSCORE', base .. ':ripe:' .. own, id)
    if ripe then return ripe end
  end
end

local function ended_fits(id)
  local is_elsewhere = elsewhere[letter] or letter == '' and (elsewhere.s or elsewhere.f or elsewhere.c)
  return route == '' or not is_elsewhere or string.match(lane_read(id, 'sfc'), '^[^^]*') == route
end

local function open_fits(id)
  local _, was = claim_of(id)
  if letter ~= '' and was ~= (letter == 'l' and 'q' or letter) then return false end
  if route == '' and letter ~= 'l' then return true end
  local ripe = ripe_of(id)
  return ripe and (letter ~= 'l' or tonumber(ripe) > now)
end

local function fits(id)
  if call('HEXISTS', RUN, id) == 0 then return false end
  local ended = call('HEXISTS', DONE, id) == 1
  if letter == 's' or letter == 'f' or letter == 'c' then
    return ended and call('ZSCORE', base .. ':ended:' .. letter, id) and ended_fits(id)
  end
  if ended then return letter == '' and ended_fits(id) end
  return open_fits(id)
end

local looked = 0
for i = 6, #ARGV do
  if #records == 5 * limit or read > MUCH then break end
  looked, envelope = looked + 1, nil
  if fits(ARGV[i]) then
    costs(ARGV[i])
    add_record(records, ARGV[i], envelope, most)
  end
end
table.insert(records, 1, looked)
return records

-- script sources
-- ARGV: base route or "", state letter or "". Gives the keys that hold the ids of such runs, among others, with how
-- many each holds; counts say where there are none. Nothing where the keys are too many.

-- with base counts

local list, seen = {}, {}
local names = counts_of(ARGV[1], 20000)
if not names then
  local letter = ARGV[2]
  if letter == '' or letter == 'q' then return false end
  names = {letter .. ARGV[1]}
end

local function add(key, how_many)
  if seen[key] then return end
  seen[key] = true
  list[#list + 1], list[#list + 2] = key, call(how_many, key)
end

local MOST_KEYS = 1000

for _, name in ipairs(names) do
  if #list > 2 * MOST_KEYS then return false end
  local letter, route = string.sub(name, 1, 1), string.sub(name, 2)
  local fits = (ARGV[1] == '' or string.match(route, '^[^^]*') == ARGV[1]) and (ARGV[2] == '' or ARGV[2] == letter)
  if fits and letter == 'q' then
    add(base .. ':ripe:' .. route, 'ZCARD')
  elseif fits and letter == 'r' then
    add(base .. ':claims', 'HLEN')
  elseif fits then
    add(base .. ':ended:' .. letter, 'ZCARD')
  end
end
return list
