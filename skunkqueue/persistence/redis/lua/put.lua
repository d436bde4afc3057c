-- Putting runs, and the pages of ids.

-- part pages

local PAGES, PAGE, GONE = base .. ':pages', base .. ':page:', base .. ':gone'
local FULL = 14500 -- bytes; 500 ids

-- The last page is full: the next one begins behind all of its ids.
local function turn(page)
  local top = ''
  for id in string.gmatch(call('GET', PAGE .. page), '[^\n]+') do
    if id > top then top = id end
  end
  call('ZADD', PAGES, 0, top .. '!')
end

local function write(ids)
  table.sort(ids)
  local at = 1
  while at <= #ids do
    local first, texts = ids[at], {}
    local page = call('ZREVRANGEBYLEX', PAGES, '[' .. first, '-', 'LIMIT', 0, 1)[1]
    local behind = call('ZRANGEBYLEX', PAGES, '(' .. first, '+', 'LIMIT', 0, 1)[1]
    if not page then
      page = first
      call('ZADD', PAGES, 0, page)
    end
    while at <= #ids and (not behind or ids[at] < behind) do
      texts[#texts + 1] = ids[at] .. '\n'
      at = at + 1
    end
    if call('APPEND', PAGE .. page, table.concat(texts)) >= FULL and not behind then turn(page) end
  end
end

-- part put_any

local put, marks = 0, {}

-- Put a run that may be here already, or whose unique key may be taken. Gives the id that stands for it: the first
-- envelope of an id stands.
local function put_any(id, envelope, later)
  if call('HEXISTS', base .. ':run', id) == 1 then return id end
  local route, due, _, expires, unique = head(envelope)
  if unique and not take_key(id, route, unique) then return call('HGET', base .. ':unique', route .. '\0' .. unique) end
  call('HSET', base .. ':run', id, envelope)
  write({id})
  call('ZADD', base .. ':ripe:' .. route, due, id)
  if expires then call('ZADD', base .. ':expires', expires, id) end
  count('q', route, 1)
  put = put + 1
  marks[route] = true
  tell(route, later)
  return id
end

-- Whether the queue was empty before.
local function finish_put()
  keep_count()
  for route in pairs(marks) do mark(route) end
  return put > 0 and call('HLEN', base .. ':run') == put and 1 or 0
end

-- part put_rest
-- All that putting n new runs of one route does after their envelopes are written and their times are set: text has
-- their ids as they go on a page, smallest is the first of them, told is the first due of those for later, or "".

local page = call('ZREVRANGE', base .. ':pages', 0, 0)[1]
local size = page and page <= smallest and call('APPEND', base .. ':page:' .. page, text)
if not size or size >= 14500 then
  -- with pages
  if size then turn(page) else write(ids or {smallest}) end
end
local MARK = base .. ':mark:' .. route
if call('ZADD', MARK, 0, '1') == 1 then call('PEXPIRE', MARK, 30000) end
if told ~= '' then
  -- with tell
  tell(route, told)
end
local total = redis.pcall('HINCRBY', base .. ':count', 'q' .. route, n)
if type(total) == 'table' then
  local damaged = {'q' .. route}
  -- with recount
end
return total == n and call('HLEN', RUN) == n and 1 or 0

-- script put_one
-- ARGV: route, due, id, envelope, due again where it is for later, or "". A run without an expires or a unique key: as
-- put does it, with less to read. Gives 1 if the queue was empty.

-- with base
local RUN, route, n, smallest, told = base .. ':run', ARGV[1], 1, ARGV[3], ARGV[5]
if call('HSETNX', RUN, smallest, ARGV[4]) == 0 then return 0 end -- the first envelope of an id stands
call('ZADD', base .. ':ripe:' .. route, ARGV[2], smallest)
local text, ids = smallest .. '\n'
-- with put_rest

-- script put
-- ARGV: route, n, n times (due, id), n envelopes, the first due of those for later or "", the ids as they go on a page,
-- the smallest of them. These are different runs without an expires or a unique key. Gives 1 if the queue was empty.

-- with base
local RUN, route, n = base .. ':run', ARGV[1], tonumber(ARGV[2])
local last, told, text, smallest = 2 + 2 * n, ARGV[#ARGV - 2], ARGV[#ARGV - 1], ARGV[#ARGV]
local ids, runs, all_new = {}, {}, true
for i = 1, n do
  ids[i] = ARGV[2 + 2 * i]
  runs[2 * i - 1], runs[2 * i] = ids[i], ARGV[last + i]
end
for _, found in ipairs(call('HMGET', RUN, unpack(ids))) do all_new = all_new and not found end
if not all_new then
  -- with head open count wake tell pages put_any
  for i = 1, n do put_any(ids[i], runs[2 * i], '') end
  if put > 0 then tell(route, told) end
  return finish_put()
end
call('HSET', RUN, unpack(runs))
call('ZADD', base .. ':ripe:' .. route, unpack(ARGV, 3, last))
-- with put_rest

-- script put_each
-- ARGV: n times (id, envelope, due again where it is for later, or ""). Gives 1 if the queue was empty, then the ids as
-- put or found.

-- with base head open count wake tell pages put_any

local answer = {0}
for at = 1, #ARGV, 3 do answer[#answer + 1] = put_any(ARGV[at], ARGV[at + 1], ARGV[at + 2]) end
answer[1] = finish_put()
return answer
