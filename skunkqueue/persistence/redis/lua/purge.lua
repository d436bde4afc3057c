-- Housekeeping.

-- script purge
-- ARGV: now, limit, cursor. Gives how many it did, whether the queue is empty now, the workers that open runs are
-- addressed to, whether it left something for the next call, as it reads no more than so many bytes of envelopes in one,
-- what is to be mended, see lost, and the next cursor: where there are very many counts, each call looks at some of them.

-- with base fields head mend count notify claim cancel pages

local now, limit = ARGV[1], tonumber(ARGV[2])
local RUN, DONE = base .. ':run', base .. ':done'

local function kept_until_now()
  local list = {}
  for _, letter in ipairs({'s', 'f', 'c'}) do
    local found = call('ZRANGEBYSCORE', base .. ':ended:' .. letter, '-inf', now, 'WITHSCORES', 'LIMIT', 0, limit)
    for i = 1, #found, 2 do list[#list + 1] = {id = found[i], ripe = tonumber(found[i + 1]), letter = letter} end
  end
  table.sort(list, function(a, b) return a.ripe < b.ripe or a.ripe == b.ripe and a.id < b.id end)
  return list
end

-- Take bytes of ids off a page: it goes with the last of them, and is written anew when most of it is gone.
local function rewrite(page, bytes)
  local gone, size = redis.pcall('HINCRBY', GONE, page, bytes), call('STRLEN', PAGE .. page)
  if type(gone) == 'table' then gone = 0.8 * size end -- it is no number
  if gone >= size then
    call('DEL', PAGE .. page)
    call('HDEL', GONE, page)
    call('ZREM', PAGES, page)
  elseif gone > 0.7 * size then
    local texts = {}
    for id in string.gmatch(call('GET', PAGE .. page), '[^\n]+') do
      if call('HEXISTS', RUN, id) == 1 then texts[#texts + 1] = id .. '\n' end
    end
    call('SET', PAGE .. page, table.concat(texts))
    call('HDEL', GONE, page)
  end
end

local function unwrite(ids)
  table.sort(ids)
  local at = 1
  while at <= #ids do
    local page = call('ZREVRANGEBYLEX', PAGES, '[' .. ids[at], '-', 'LIMIT', 0, 1)[1]
    local behind = call('ZRANGEBYLEX', PAGES, '(' .. ids[at], '+', 'LIMIT', 0, 1)[1]
    local bytes = 0
    while at <= #ids and (not behind or ids[at] < behind) do
      bytes = bytes + #ids[at] + 1
      at = at + 1
    end
    if page then rewrite(page, bytes) end -- else none has it
  end
end

-- How many of the first n envelopes one call may read, for their routes.
local function affordable(over, n)
  local size = 0
  for i = 1, n do
    size = size + call('HSTRLEN', RUN, over[i].id)
    if size > 4194304 then return i end
  end
  return n
end

local function forget(over, n)
  local ids, ended = {}, {s = {}, f = {}, c = {}}
  for i = 1, n do
    ids[i] = over[i].id
    table.insert(ended[over[i].letter], over[i].id)
  end
  for i, envelope in ipairs(call('HMGET', RUN, unpack(ids))) do
    local letter = over[i].letter
    count(letter, lane_of(ids[i], envelope, letter), -1)
  end
  for letter, list in pairs(ended) do
    if #list > 0 then call('ZREM', base .. ':ended:' .. letter, unpack(list)) end
  end
  call('HDEL', RUN, unpack(ids))
  call('HDEL', DONE, unpack(ids))
  unwrite(ids)
end

local function is_leased(id, envelope)
  return string.sub(call('HGET', base .. ':claims', id) or 'q', 1, 1) == 'r'
    and tonumber(call('ZSCORE', base .. ':ripe:' .. lane_of(id, envelope), id) or 0) > tonumber(now)
end

-- Leased runs past their time are passed over: they are as few as there are workers.
local function expire(most)
  local ids, passed = {}, 0
  while #ids < most do
    local id = call('ZRANGEBYSCORE', base .. ':expires', '-inf', now, 'LIMIT', passed, 1)[1]
    if not id then break end
    local envelope = call('HGET', RUN, id)
    if not envelope or call('HEXISTS', DONE, id) == 1 then
      call('ZREM', base .. ':expires', id) -- it was damaged when it ended, or is gone
    elseif is_leased(id, envelope) then
      passed = passed + 1
    else
      cancel(id, envelope, now, 'expired')
      ids[#ids + 1] = id
    end
  end
  notify(ids)
  return #ids
end

local function addressees(counts)
  local workers = {}
  for i = 1, #counts, 2 do
    local worker = string.match(counts[i], '^[qr]@([^^]*)')
    if worker then workers[worker] = true end
  end
  local list = {}
  for worker in pairs(workers) do list[#list + 1] = worker end
  return list
end

local over = kept_until_now()
local wanted = math.min(#over, limit)
local n = affordable(over, wanted)
if n > 0 then forget(over, n) end
local routes = {}
for name in pairs(tally) do routes[string.sub(name, 2)] = true end
local expired = expire(limit - n)
keep_count()
-- The last page may not have been begun; a damaged run does not say what else it left.
if n > 0 and call('EXISTS', RUN) == 0 then
  for _, page in ipairs(call('ZRANGE', PAGES, 0, 999)) do call('DEL', PAGE .. page) end
  call('DEL', PAGES, base .. ':unique', base .. ':expires', base .. ':count', base .. ':claims', DONE)
end
for route in pairs(routes) do
  if call('EXISTS', base .. ':ripe:' .. route) == 0 then call('DEL', base .. ':mark:' .. route) end
end

-- Counts by name: all of them, true, and '0'; or some of very many, and where to go on.
local function counts_from(cursor)
  if call('HLEN', base .. ':count') <= 5000 then return call('HGETALL', base .. ':count'), true, '0' end
  local reply, some, seen = call('HSCAN', base .. ':count', cursor, 'COUNT', 5000), {}, {}
  for i = 1, #reply[2], 2 do
    local name = reply[2][i] -- which it may give twice
    if not seen[name] then some[#some + 1], some[#some + 2] = name, reply[2][i + 1] end
    seen[name] = true
  end
  return some, false, reply[1]
end

-- What keys were lost, by somebody or by an eviction: letters of MENDS. It is told by counts that exceed what is there.
-- Some counts tell it of a lost set of open runs; and of another key only where all of that is lost.
local function lost(all, is_all)
  local open, ended, total, running = {}, {}, 0, 0
  for i = 1, #all, 2 do
    local letter, route, how_many = string.sub(all[i], 1, 1), string.sub(all[i], 2), tonumber(all[i + 1]) or 0
    local of = (letter == 'q' or letter == 'r') and open or ended
    local name = of == open and route or letter
    of[name] = (of[name] or 0) + how_many
    total = total + how_many
    if letter == 'r' then running = running + how_many end
  end
  local there = call('HLEN', RUN)
  if there == 0 then return total > 0 and 'x' or '' end
  local found = ''
  if is_all and total == 0 then found = 'c' end
  if call('EXISTS', PAGES) == 0 then found = found .. 'p' end
  if running > call('HLEN', base .. ':claims') then found = found .. 'r' end
  for route, how_many in pairs(open) do
    if how_many > call('ZCARD', base .. ':ripe:' .. route) then return found .. 's' end
  end
  local results = 0
  for letter, how_many in pairs(ended) do
    results = results + how_many
    if how_many > call('ZCARD', base .. ':ended:' .. letter) then return found .. 's' end
  end
  return results > call('HLEN', DONE) and found .. 's' or found
end

local counts, is_all, cursor = counts_from(ARGV[3])
local mends = n + expired == 0 and lost(counts, is_all) or ''
return {n + expired, 1 - call('EXISTS', RUN), addressees(counts), n < wanted and 1 or 0, mends, cursor}

-- script addressed
-- ARGV: now, how many, workers. Gives unleased runs addressed to them, as worker, id. Looks at a bounded part of each
-- route: those first whose lease has ended, or that are due; then what is queued for later.

-- with base

local list, most = {}, 2 * tonumber(ARGV[2])

local function add(worker, route)
  local wanted = (most - #list) / 2
  if wanted <= 0 then return end
  -- Unleased is what is ripe, and what is queued for later; a worker holds few, so few of the others are passed over.
  local ids = call('ZRANGEBYSCORE', base .. ':ripe:' .. route, '-inf', ARGV[1], 'LIMIT', 0, wanted)
  for i = 1, #ids do list[#list + 1], list[#list + 2] = worker, ids[i] end
  wanted = wanted - #ids
  local running = tonumber(call('HGET', base .. ':count', 'r' .. route) or 0)
  if wanted <= 0 then return end
  ids = call('ZRANGEBYSCORE', base .. ':ripe:' .. route, '(' .. ARGV[1], '+inf', 'LIMIT', 0, wanted + running)
  for i = 1, #ids do
    if #list == most then return end
    local claim = call('HGET', base .. ':claims', ids[i]) or 'q'
    if string.sub(claim, 1, 1) == 'q' then list[#list + 1], list[#list + 2] = worker, ids[i] end
  end
end

for i = 3, #ARGV do
  for _, priority in ipairs({'', '^high', '^low'}) do add(ARGV[i], '@' .. ARGV[i] .. priority) end
end
return list
