-- The Redis store's scripts. One script is one transaction, and one round trip.
--
-- A line "-- script NAME" starts a script, "-- part NAME" a part of scripts, and "-- with NAMES" is where such parts go.
-- Redis runs all of a script at every call, and to make a function costs as much as to call Redis: so what is met often
-- stands in a row, and the rest is made where it is met. KEYS[1] is the base key of a queue, skunk:{queue}; all keys of
-- a queue are made from it, so they share its hash slot:
--
--   :run           hash  id -> envelope: "=due route keep\n" and the body; or, where it has an expires or a unique key,
--                        "!due route keep expires length\n", the unique key, the body; absent is "-"
--   :claims        hash  id -> "r" and token worker lapses notes error progress note, of a run that is running; or "q"
--                        and the same of a queued run that has been claimed before: its token proves a repetition
--   :done          hash  id -> state letter, the same, value error ended
--   :pages         zset  names of pages, score 0; a page holds the ids from its name up to the next one's
--   :page:NAME     string  ids, each with a newline, in any order, some of them gone: a quarter of a zset
--   :gone          hash  page -> bytes of those of its ids that are gone
--   :ripe:ROUTE    zset  open runs by their one moving time
--   :ended:LETTER  zset  ended runs by the time they are kept until; s succeeded, f failed, c cancelled
--   :count         hash  state letter and route -> how many (q queued, r running, s, f, c)
--   :unique        hash  route, NUL, unique key -> id of the open run that has it
--   :expires       zset  open runs that expire
--   :mark:ROUTE    zset  at most one member: somebody should look at this route. Waiters block on it. Expires
--   :waiting       hash  id -> bells to ring when it ends
--   :bell:NAME     zset  ids that have ended; one waiter blocks on it. Expires
--   :call:WORKER   zset  at most one member: this worker has orders. Expires
--   :later         channel on which "route due" is published for a run that is put for later
--
-- and skunk:{@} for what belongs to no queue: :queues (hash, queue -> schema version), :until (zset of workers by the
-- end of their beat; -inf is one that only has orders), :about (hash), :orders:WORKER (list), :ears (hash, worker ->
-- the queue in whose slot it waits). No key is left when all is done, purged and expired.
--
-- Fields are written as length, colon, bytes; "-:" is absent. Times travel as text, since Lua prints 14 digits only.

-- part base

local base = KEYS[1]
local call = redis.call

-- part fields

local function field(text)
  return text and (#text .. ':' .. text) or '-:'
end

local function fields(text, at)
  local list, n = {}, 0
  while at <= #text do
    local _, colon, length = string.find(text, '^([%d%-]+):', at)
    if not colon or length ~= '-' and not tonumber(length) then break end -- damaged
    n = n + 1
    at = colon + 1
    if length == '-' then
      list[n] = false
    else
      list[n] = string.sub(text, at, at + length - 1)
      at = at + length
    end
  end
  return list
end

local function joined(list)
  local texts = {}
  for i = 1, #list do texts[i] = field(list[i]) end
  return table.concat(texts)
end

-- part head

local function head(envelope)
  if string.byte(envelope) == 61 then
    local _, _, due, route, keep = string.find(envelope, '^=(%S+) (%S+) (%S+)\n')
    return route, due, keep, false, false
  end
  local _, newline, due, route, keep, expires, length = string.find(envelope, '^!(%S+) (%S+) (%S+) (%S+) (%S+)\n')
  local unique = length ~= '-' and string.sub(envelope, newline + 1, newline + length)
  return route, due, keep, expires ~= '-' and expires, unique
end

-- part mend
-- An envelope that cannot be read must cost its own run only.

local function is_number(text)
  return tonumber(text) and not string.find(text, '[xX]')
end

local function is_sound(envelope)
  local _, newline, due, route, keep, expires, length = string.find(envelope, '^!(%S+) (%S+) (%S+) (%S+) (%S+)\n')
  if not newline then
    _, newline, due, route, keep = string.find(envelope, '^=(%S+) (%S+) (%S+)\n')
    expires, length = '-', '-'
  end
  return newline and is_number(due) and is_number(keep) and (expires == '-' or is_number(expires))
    and (length == '-' or is_number(length) and tonumber(length) <= #envelope - newline) and route
end

-- The route of a run: where its envelope does not say, the one on which it waits or runs, or the likeliest one.
local function lane_of(id, envelope, letters)
  local route = envelope and is_sound(envelope)
  if route then return route end
  local names = call('HKEYS', base .. ':count')
  for _, name in ipairs(names) do
    if call('ZSCORE', base .. ':ripe:' .. string.sub(name, 2), id) then return string.sub(name, 2) end
  end
  local _, _, named = string.find(envelope or '', '[=!]%S+ (%S+) ')
  for _, name in ipairs(names) do
    if string.sub(name, 2) == named then return named end
  end
  for _, name in ipairs(names) do
    if string.find(letters or 'sfc', string.sub(name, 1, 1), 1, true) then return string.sub(name, 2) end
  end
  return '?'
end

-- The envelope, or one that can be read, with what is there as its body. Whoever opens that says that it is none.
local function sound(id, envelope)
  if is_sound(envelope) then return envelope end
  return '=0 ' .. lane_of(id, envelope) .. ' 86400\n' .. envelope
end

-- part open

local function is_open(id)
  return call('HEXISTS', base .. ':run', id) == 1 and call('HEXISTS', base .. ':done', id) == 0
end

-- Hold a unique key; false where another open run holds it. A run whose envelope was damaged may have left its own.
local function take_key(id, route, unique)
  local name = route .. '\0' .. unique
  local holder = call('HGET', base .. ':unique', name)
  if holder and holder ~= id and is_open(holder) then return false end
  call('HSET', base .. ':unique', name, id)
  return true
end

-- part count

local tally = {}

local function count(letter, route, by)
  local name = letter .. route
  tally[name] = (tally[name] or 0) + by
end

local function keep_count()
  for name, by in pairs(tally) do
    if by ~= 0 and call('HINCRBY', base .. ':count', name, by) == 0 then call('HDEL', base .. ':count', name) end
  end
end

-- part tell

-- Tell the pools of a run that is due later, so that each knows when to look, whoever dies. Who may not publish does not.
local function tell(route, due)
  if due ~= '' then redis.pcall('PUBLISH', base .. ':later', route .. ' ' .. due) end
end

-- part knock

local function knock(key)
  if call('ZADD', key, 0, '1') == 1 then call('PEXPIRE', key, 30000) end
end

local function mark(route)
  knock(base .. ':mark:' .. route)
end

-- part ring

local function ring(ids)
  if #ids == 0 or call('EXISTS', base .. ':waiting') == 0 then return end
  for i, bells in ipairs(call('HMGET', base .. ':waiting', unpack(ids))) do
    if bells then
      for bell in string.gmatch(bells, '%S+') do
        call('ZADD', base .. ':bell:' .. bell, 0, ids[i])
        call('PEXPIRE', base .. ':bell:' .. bell, 30000)
      end
      call('HDEL', base .. ':waiting', ids[i])
    end
  end
end

-- part claim

-- What there is of an open run's claim, and its state letter.
local function claim_of(id)
  local claim = call('HGET', base .. ':claims', id)
  if not claim or not string.find(claim, '^[qr][%d%-]+:') or #fields(claim, 2) ~= 7 then claim = 'q-:-:1:00:-:-:-:' end
  return string.sub(claim, 2), string.sub(claim, 1, 1)
end

-- part cancel

local function let_go(id, route, expires, unique)
  if expires then call('ZREM', base .. ':expires', id) end
  if unique then call('HDEL', base .. ':unique', route .. '\0' .. unique) end
end

-- End an open run as cancelled; its token is gone, its worker is still named.
local function cancel(id, envelope, now, err)
  if not is_sound(envelope) then
    envelope = sound(id, envelope)
    call('HSET', base .. ':run', id, envelope)
  end
  local route, _, keep, expires, unique = head(envelope)
  local claim, was = claim_of(id)
  local kept = string.format('%.17g', tonumber(now) + math.max(tonumber(keep), 60))
  local list = fields(claim, 1)
  list[1] = false
  call('HDEL', base .. ':claims', id)
  call('ZREM', base .. ':ripe:' .. route, id)
  call('ZADD', base .. ':ended:c', kept, id)
  call('HSET', base .. ':done', id, 'c' .. joined(list) .. '-:' .. field(err) .. field(now))
  let_go(id, route, expires, unique)
  count(was, route, -1)
  count('c', route, 1)
end

-- part record

-- A run as id, envelope, state letter, ripe, claim (and result).
local function add_record(list, id, envelope)
  envelope = envelope or call('HGET', base .. ':run', id)
  if not envelope then return end
  envelope = sound(id, envelope)
  local done = call('HGET', base .. ':done', id)
  local letter, ripe, claim
  if done then
    letter, claim = string.sub(done, 1, 1), string.sub(done, 2)
    if #fields(claim, 1) ~= 10 then claim = '-:-:1:00:-:-:-:-:' .. field('what became of it is damaged') .. '-:' end
    ripe = call('ZSCORE', base .. ':ended:' .. letter, id)
    for _, other in ipairs({'s', 'f', 'c'}) do
      if not ripe then letter, ripe = other, call('ZSCORE', base .. ':ended:' .. other, id) end
    end
  else
    claim, letter = claim_of(id)
    ripe = call('ZSCORE', base .. ':ripe:' .. head(envelope), id)
  end
  local n = #list
  list[n + 1], list[n + 2], list[n + 3], list[n + 4], list[n + 5] = id, envelope, letter, ripe, claim
end

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
return call('HINCRBY', base .. ':count', 'q' .. route, n) == n and call('HLEN', RUN) == n and 1 or 0

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
  -- with head open count knock tell pages put_any
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

-- with base head open count knock tell pages put_any

local answer = {0}
for at = 1, #ARGV, 3 do answer[#answer + 1] = put_any(ARGV[at], ARGV[at + 1], ARGV[at + 2]) end
answer[1] = finish_put()
return answer

-- script exchange
-- ARGV: now, until, soon, number of groups of outcomes, the groups, then the wants. Where now is "", this was sent ahead
-- of its time, behind a call that blocks: now is what the server's clock says, until and soon are seconds from then.
-- A group is "e", letter, claim, route, kept, n, n ids, n tails (value error ended): runs that simply ended; claim is
-- what theirs begin with. Or it is "o", kind, claim, route, id, expires, unique, time, notes, first, second: one that
-- needs care, where kind is a letter (first is the tail), "q" (first is the error or "=") or "k" (first is the progress
-- or "=", second the note).
-- A want is a fresh claim, its token as a claim begins with it, token, worker, limit, repeated, n, n routes.
-- Gives the ids refused, the next time something ripens, per bunch of claims: want, ids, envelopes, claims, untils; and
-- now.

-- with base count exchange_values exchange_rare
-- with exchange_end exchange_commit
-- with exchange_hold exchange_route exchange_claim
-- with exchange_marks
keep_count()
return {refused, next_ripe, bunches, now}

-- part exchange_values
-- What one exchange knows, and what it gathers for its answer.

local now, till, soon = ARGV[1], ARGV[2], ARGV[3]
if now == '' then
  local time = call('TIME')
  now = string.format('%d.%06d', time[1], time[2])
  till, soon = string.format('%.6f', now + till), now + soon
end
local RUN, CLAIMS, DONE, RIPE = base .. ':run', base .. ':claims', base .. ':done', base .. ':ripe:'
local refused, bunches, ripes, short, to_mark = {}, {}, {}, {}, {}
local NONE, moment = {}, tonumber(now)
local has_written = false

-- A first write that no maxmemory refuses lets the others pass: a full server must still be drained.
local function begin()
  if not has_written then call('DEL', base .. ':none') end
  has_written = true
end

-- part exchange_rare
-- What is not met often is made when it is first met: rare() gives a table of it.

local made

local function rare()
  if made then return made end
  made = {}
  -- with fields head ring tell mend claim cancel
  -- with commit_each commit_one hold_each hold_again
  made.ring = ring
  return made
end

-- part commit_each
-- Rare: runs that simply ended, of which some are not held under the token. Each is ended or refused by itself.

local function known(id, token)
  local claim = call('HGET', DONE, id) or call('HGET', CLAIMS, id)
  return claim and string.sub(claim, 2, #token) == string.sub(token, 2)
end

local function end_one(kind, route, id, kept, done)
  call('HDEL', CLAIMS, id)
  call('ZREM', RIPE .. route, id)
  call('HSET', DONE, id, done)
  call('ZADD', base .. ':ended:' .. kind, kept, id)
  count('r', route, -1)
  count(kind, route, 1)
  ring({id})
end

function made.end_each(letter, token, route, kept, ids, tails, claims)
  for i, id in ipairs(ids) do
    local claim = claims[i]
    if claim and string.sub(claim, 1, #token) == token then
      end_one(letter, route, id, kept, letter .. string.sub(claim, 2) .. tails[i])
    elseif not known(id, token) then
      refused[#refused + 1] = id
    end
  end
end

-- part commit_one
-- Rare: an outcome that is more than an end, of a group "o": the run is queued again, its progress is kept, or it ends.

local function queue_one(route, id, due, claim, err)
  claim[2] = false
  if err ~= '=' then claim[5] = fields(err, 1)[1] end
  call('HSET', CLAIMS, id, 'q' .. joined(claim))
  call('ZADD', RIPE .. route, due, id)
  count('r', route, -1)
  count('q', route, 1)
  to_mark[route] = true
  if tonumber(due) > moment then tell(route, due) end
end

local function keep_one(id, claim, progress, note)
  if progress ~= '=' then claim[6], claim[7] = fields(progress, 1)[1], fields(note, 1)[1] end
  call('HSET', CLAIMS, id, 'r' .. joined(claim))
end

function made.care(kind, token, route, id, expires, unique, time, notes, first, second)
  local text = call('HGET', CLAIMS, id)
  if not text or string.sub(text, 1, #token) ~= token then
    if not known(id, token) then refused[#refused + 1] = id end
    return
  end
  local claim = fields(text, 2)
  if notes ~= '-:' then claim[4] = fields(notes, 1)[1] end
  if kind == 'q' then return queue_one(route, id, time, claim, first) end
  if kind == 'k' then return keep_one(id, claim, first, second) end
  end_one(kind, route, id, time, kind .. joined(claim) .. first)
  let_go(id, route, expires ~= '', unique ~= '' and unique)
end

-- part hold_each
-- Rare: claim runs one by one, of which some lapsed, were claimed before, expired or are damaged.

local function new_bunch(want)
  local bunch = {want.number, {}, {}, {}, {}}
  bunches[#bunches + 1] = bunch
  return bunch
end

local function hold(bunch, want, id, envelope, route)
  local claim, was = claim_of(id)
  local list = fields(claim, 1)
  if was == 'r' then list[3] = tostring(list[3] + 1) end
  list[1], list[2] = want.token, want.worker
  local text = 'r' .. joined(list)
  call('HSET', CLAIMS, id, text)
  count(was, route, -1)
  count('r', route, 1)
  local n = #bunch[2] + 1
  bunch[2][n], bunch[3][n], bunch[4][n], bunch[5][n] = id, envelope, text, till
end

-- Gives the ids claimed.
function made.hold_each(want, route, ids, envelopes)
  local bunch = new_bunch(want)
  for i, id in ipairs(ids) do
    local envelope = envelopes[i]
    if envelope and is_sound(envelope) ~= route then
      envelope = '=0 ' .. route .. ' 86400\n' .. envelope
      call('HSET', RUN, id, envelope)
    end
    local expires = envelope and string.byte(envelope) == 33 and select(4, head(envelope))
    if not envelope then
      -- A run that is gone, but for its place in the queue.
      call('ZREM', RIPE .. route, id)
      call('HDEL', CLAIMS, id)
    elseif expires and tonumber(expires) <= moment then
      cancel(id, envelope, now, 'expired')
      ring({id})
    else
      hold(bunch, want, id, envelope, route)
    end
  end
  return bunch[2]
end

function made.both(first, second)
  local list = {}
  for i, id in ipairs(first) do list[i] = id end
  for _, id in ipairs(second) do list[#list + 1] = id end
  return list
end

-- part hold_again
-- Rare: what the token holds already, for a want whose reply was lost; leased anew, so that it is not given twice.

function made.hold_again(want, left)
  local mine, bunch = {}, new_bunch(want)
  local all = call('HGETALL', CLAIMS)
  for i = 1, #all, 2 do
    if string.sub(all[i + 1], 1, #want.prefix) == want.prefix then mine[#mine + 1] = all[i] end
  end
  table.sort(mine)
  for n = 1, math.min(#mine, left) do
    local id = mine[n]
    local envelope = sound(id, call('HGET', RUN, id) or '')
    call('HSET', RUN, id, envelope)
    local route = head(envelope)
    call('ZADD', RIPE .. route, 'GT', till, id)
    bunch[2][n], bunch[3][n], bunch[4][n] = id, envelope, call('HGET', CLAIMS, id)
    bunch[5][n] = call('ZSCORE', RIPE .. route, id)
  end
  ripes = {}
  return left - #bunch[2]
end

-- part exchange_end
-- Commit a group of runs that simply ended, all under one claim's token, with one call of Redis per thing written.

local function end_all(letter, token, route, kept, n, at, waited)
  local last = at + n - 1
  local claims = call('HMGET', CLAIMS, unpack(ARGV, at, last))
  local results, keeps, good, done = {}, {}
  for i = 1, n do
    local claim = claims[i]
    if claim ~= good then
      if not claim or string.sub(claim, 1, #token) ~= token then
        local ids, tails = {unpack(ARGV, at, last)}, {unpack(ARGV, last + 1, last + n)}
        return rare().end_each(letter, token, route, kept, ids, tails, claims)
      end
      good, done = claim, letter .. string.sub(claim, 2)
    end
    local id = ARGV[at + i - 1]
    results[2 * i - 1], results[2 * i] = id, done .. ARGV[last + i]
    keeps[2 * i - 1], keeps[2 * i] = kept, id
  end
  call('HDEL', CLAIMS, unpack(ARGV, at, last))
  call('ZREM', RIPE .. route, unpack(ARGV, at, last))
  call('HSET', DONE, unpack(results))
  call('ZADD', base .. ':ended:' .. letter, unpack(keeps))
  count('r', route, -n)
  count(letter, route, n)
  if waited then rare().ring({unpack(ARGV, at, last)}) end
end

-- part exchange_commit
-- Commit all groups of outcomes; at is left on the first want.

local at, groups = 5, tonumber(ARGV[4])
local waited = groups > 0 and call('EXISTS', base .. ':waiting') == 1
if groups > 0 then begin() end
for _ = 1, groups do
  if ARGV[at] == 'e' then
    local n = tonumber(ARGV[at + 5])
    end_all(ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], n, at + 6, waited)
    at = at + 6 + 2 * n
  else
    rare().care(unpack(ARGV, at + 1, at + 10))
    at = at + 11
  end
end

-- part exchange_hold
-- Claim ripe runs that were never claimed, with one call of Redis for all.

local function hold_all(want, route, ids)
  local envelopes = call('HMGET', RUN, unpack(ids))
  local claims = call('HMGET', CLAIMS, unpack(ids))
  local fresh = {}
  for i, id in ipairs(ids) do
    if claims[i] or not envelopes[i] or string.byte(envelopes[i]) ~= 61 then
      return rare().hold_each(want, route, ids, envelopes)
    end
    fresh[2 * i - 1], fresh[2 * i] = id, want.fresh
  end
  -- Redis keeps a hash of few fields as a list, in which each is searched for from the start: for a batch that costs many
  -- times as much as all the rest. A long value makes it a table, and it stays one.
  if #ids > 15 then call('HSET', CLAIMS, '\0', string.rep(' ', 65)) end
  call('HSET', CLAIMS, unpack(fresh))
  if #ids > 15 then call('HDEL', CLAIMS, '\0') end
  count('q', route, -#ids)
  count('r', route, #ids)
  bunches[#bunches + 1] = {want.number, ids, envelopes, NONE, NONE}
  return ids
end

-- part exchange_route
-- Claim what is ripe on one route, up to the number left to claim; gives how many are left then.

local function claim_route(want, route, left)
  local mine, asked, ids = NONE
  repeat
    asked = math.min(left, 1000)
    -- What this call has claimed here keeps its place until the end of it, so it is passed over by number.
    ids = call('ZRANGEBYSCORE', RIPE .. route, '-inf', now, 'LIMIT', #mine, asked)
    local got = #ids > 0 and hold_all(want, route, ids) or NONE
    left = left - #got
    mine = mine == NONE and got or rare().both(mine, got)
  until left == 0 or #ids < asked
  for first = 1, #mine, 1000 do
    local times = {}
    for i = first, math.min(first + 999, #mine) do times[#times + 1], times[#times + 2] = till, mine[i] end
    call('ZADD', RIPE .. route, unpack(times))
  end
  return left
end

-- part exchange_claim
-- Serve the wants in their order, each from its routes in their order; note which routes came short, and what ripens.

local number = 0
while at <= #ARGV do
  local left, routes = tonumber(ARGV[at + 4]), tonumber(ARGV[at + 6])
  local want = {number = number, fresh = ARGV[at], prefix = ARGV[at + 1], token = ARGV[at + 2], worker = ARGV[at + 3]}
  if ARGV[at + 5] == '1' then
    begin()
    left = rare().hold_again(want, left)
  end
  for i = at + 7, at + 6 + routes do
    local route = ARGV[i]
    local ripe = ripes[route]
    if ripe == nil then ripe = call('ZRANGE', RIPE .. route, 0, 0, 'WITHSCORES')[2] or false end
    if left > 0 and ripe and tonumber(ripe) <= moment then
      begin()
      left = claim_route(want, route, left)
      ripe = call('ZRANGE', RIPE .. route, 0, 0, 'WITHSCORES')[2] or false
    end
    ripes[route] = ripe
    short[route] = short[route] or left > 0
  end
  number = number + 1
  at = at + 7 + routes
end

-- part exchange_marks
-- A claimer that gets fewer than it asked for clears the mark of a route: there is nothing left on it. One that is filled
-- and leaves something behind that is ripe soon sets the mark, which wakes the next.

local next_ripe, first, settled = '', math.huge, {}
for route, ripe in pairs(ripes) do
  local time = tonumber(ripe or math.huge)
  if time < first then next_ripe, first = ripe, time end
  if short[route] then
    settled[#settled + 1] = base .. ':mark:' .. route
    to_mark[route] = nil
  elseif time <= tonumber(soon) then
    to_mark[route] = true
  end
end
if #settled > 0 then call('DEL', unpack(settled)) end
for route in pairs(to_mark) do
  local mark = base .. ':mark:' .. route
  if call('ZADD', mark, 0, '1') == 1 then call('PEXPIRE', mark, 30000) end
end

-- script extend
-- ARGV: until, then times (id, what its claim begins with, route). Gives the ids still held.

-- with base

local held = {}
for at = 2, #ARGV, 3 do
  local id, claim = ARGV[at], call('HGET', base .. ':claims', ARGV[at])
  if claim and string.sub(claim, 1, #ARGV[at + 1]) == ARGV[at + 1] then
    held[#held + 1] = id
    call('ZADD', base .. ':ripe:' .. ARGV[at + 2], 'XX', 'GT', ARGV[1], id)
  end
end
return held

-- script cancel
-- ARGV: now, error or "", a latest ripe or "" (then only what is unleased by then is taken), ids.
-- Gives the records of those it took.

-- with base fields head mend count ring claim cancel record

local records, ids = {}, {}
call('DEL', base .. ':none')
for i = 4, #ARGV do
  local id = ARGV[i]
  local envelope = call('HGET', base .. ':run', id)
  if envelope and call('HEXISTS', base .. ':done', id) == 0 then
    local _, was = claim_of(id)
    local leased = was == 'r' and ARGV[3] ~= ''
      and tonumber(call('ZSCORE', base .. ':ripe:' .. lane_of(id, envelope), id) or 0) > tonumber(ARGV[3])
    if not leased then
      cancel(id, envelope, ARGV[1], ARGV[2] ~= '' and ARGV[2])
      add_record(records, id, envelope)
      ids[#ids + 1] = id
    end
  end
end
keep_count()
ring(ids)
return records

-- script reopen
-- ARGV: now, ids. Gives the ids it took.

-- with base head mend open count knock

local taken = {}

local function free(id, route, expires, unique)
  if expires and tonumber(expires) <= tonumber(ARGV[1]) then return false end
  return not unique or take_key(id, route, unique)
end

local function reopen(id)
  local done = call('HGET', base .. ':done', id)
  local letter = done and string.sub(done, 1, 1)
  if letter ~= 'f' and letter ~= 'c' then return end
  local envelope = sound(id, call('HGET', base .. ':run', id) or '')
  local route, _, _, expires, unique = head(envelope)
  if not free(id, route, expires, unique) then return end
  call('HSET', base .. ':run', id, envelope)
  call('HDEL', base .. ':done', id)
  call('ZREM', base .. ':ended:' .. letter, id)
  call('ZADD', base .. ':ripe:' .. route, ARGV[1], id)
  if expires then call('ZADD', base .. ':expires', expires, id) end
  count(letter, route, -1)
  count('q', route, 1)
  mark(route)
  taken[#taken + 1] = id
end

for i = 2, #ARGV do reopen(ARGV[i]) end
keep_count()
return taken

-- script promote
-- ARGV: now, ids. Makes those ripe that are queued for later; gives the ids it took.

-- with base fields head mend open claim knock

local taken = {}

local function promote(id)
  if not is_open(id) then return end
  local _, state = claim_of(id)
  local route = lane_of(id, call('HGET', base .. ':run', id))
  if state ~= 'q' or tonumber(call('ZSCORE', base .. ':ripe:' .. route, id) or 0) <= tonumber(ARGV[1]) then return end
  call('ZADD', base .. ':ripe:' .. route, ARGV[1], id)
  mark(route)
  taken[#taken + 1] = id
end

for i = 2, #ARGV do promote(ARGV[i]) end
return taken

-- script get
-- ARGV: ids. Gives their records.

-- with base fields head mend claim record

local records = {}
for i = 1, #ARGV do add_record(records, ARGV[i]) end
return records

-- script page
-- ARGV: an id or "". Gives the page that holds the ids before it: its name and its ids.

-- with base

local page = call('ZREVRANGEBYLEX', base .. ':pages', ARGV[1] == '' and '+' or '(' .. ARGV[1], '-', 'LIMIT', 0, 1)[1]
return page and {page, call('GET', base .. ':page:' .. page) or ''}

-- script among
-- ARGV: how many, now, base route or "", state letter ("l" is queued for later) or "", ids.
-- Gives the records of the first ones that fit.

-- with base fields head mend claim record

local limit, now, route, letter = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]
local records = {}
local envelopes = call('HMGET', base .. ':run', unpack(ARGV, 5))
local done = call('HMGET', base .. ':done', unpack(ARGV, 5))
local claims = call('HMGET', base .. ':claims', unpack(ARGV, 5))

local function fits(i, id)
  if not envelopes[i] then return false end
  local state = string.sub(done[i] or claims[i] or 'q', 1, 1)
  if letter ~= '' and state ~= (letter == 'l' and 'q' or letter) then return false end
  local own = (route ~= '' or letter == 'l') and lane_of(id, envelopes[i])
  if route ~= '' and string.match(own, '^[^^]*') ~= route then return false end
  return letter ~= 'l' or tonumber(call('ZSCORE', base .. ':ripe:' .. own, id) or 0) > now
end

for i = 1, #ARGV - 4 do
  if #records == 5 * limit then break end
  if fits(i, ARGV[i + 4]) then add_record(records, ARGV[i + 4], envelopes[i]) end
end
return records

-- script sources
-- ARGV: base route or "", state letter or "". Gives the keys that hold the ids of such runs, among others, with how
-- many each holds; counts say where there are none.

-- with base

local list, seen = {}, {}

local function add(key, how_many)
  if seen[key] then return end
  seen[key] = true
  list[#list + 1], list[#list + 2] = key, call(how_many, key)
end

for _, name in ipairs(call('HKEYS', base .. ':count')) do
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

-- script purge
-- ARGV: now, limit. Gives how many it did, whether the queue is empty now, and the workers that open runs are addressed
-- to.

-- with base fields head mend count ring claim cancel pages

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
  local gone, size = call('HINCRBY', GONE, page, bytes), call('STRLEN', PAGE .. page)
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
    rewrite(page, bytes)
  end
  -- The last page may not have been begun; a damaged run does not say what else it left.
  if call('EXISTS', RUN) == 0 then call('DEL', PAGES, base .. ':unique', base .. ':expires') end
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
  ring(ids)
  return #ids
end

local function addressees()
  local workers = {}
  for _, name in ipairs(call('HKEYS', base .. ':count')) do
    local worker = string.match(name, '^[qr]@([^^]*)')
    if worker then workers[worker] = true end
  end
  local list = {}
  for worker in pairs(workers) do list[#list + 1] = worker end
  return list
end

local over = kept_until_now()
local n = math.min(#over, limit)
if n > 0 then forget(over, n) end
local routes = {}
for name in pairs(tally) do routes[string.sub(name, 2)] = true end
local expired = expire(limit - n)
keep_count()
for route in pairs(routes) do
  if call('EXISTS', base .. ':ripe:' .. route) == 0 then call('DEL', base .. ':mark:' .. route) end
end
return {n + expired, 1 - call('EXISTS', RUN), addressees()}

-- script addressed
-- ARGV: now, how many, workers. Gives unleased runs addressed to them, as worker, id. Looks at a bounded part of each
-- route: those first whose lease has ended, or that are due; then what is queued for later.

-- with base

local list, most = {}, 2 * tonumber(ARGV[2])
local gone = {}
for i = 3, #ARGV do gone[ARGV[i]] = true end

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

for _, name in ipairs(call('HKEYS', base .. ':count')) do
  local worker = string.match(name, '^[qr]@([^^]*)')
  if worker and gone[worker] then add(worker, string.sub(name, 2)) end
end
return list

-- script listen
-- ARGV: the name of a bell, ids. Has it rung when one of them ends; at once where one has ended, or is not here.

-- with base

local WAITING, BELL = base .. ':waiting', base .. ':bell:' .. ARGV[1]
for i = 2, #ARGV do
  if call('HEXISTS', base .. ':run', ARGV[i]) == 0 or call('HEXISTS', base .. ':done', ARGV[i]) == 1 then
    call('ZADD', BELL, 0, ARGV[i])
    return call('PEXPIRE', BELL, 30000)
  end
end
for i = 2, #ARGV do
  local bells = call('HGET', WAITING, ARGV[i]) or ''
  if not string.find(bells, ARGV[1], 1, true) then call('HSET', WAITING, ARGV[i], bells .. ' ' .. ARGV[1]) end
end
return 0

-- script knock
-- ARGV: worker. Wakes the pool that waits for its orders.

-- with base knock

knock(base .. ':call:' .. ARGV[1])
return 1

-- script beat
-- ARGV: worker, until, about, queue it listens in or "", ids of orders seen. Gives the orders left.

-- with base

local worker, left = ARGV[1], {}
local ORDERS = base .. ':orders:' .. worker
call('ZADD', base .. ':until', ARGV[2], worker)
call('HSET', base .. ':about', worker, ARGV[3])
if ARGV[4] ~= '' then call('HSET', base .. ':ears', worker, ARGV[4]) end
local seen = {}
for i = 5, #ARGV do seen[ARGV[i]] = true end
for _, order in ipairs(call('LRANGE', ORDERS, 0, -1)) do
  if seen[string.match(order, '^%S+')] then call('LREM', ORDERS, 1, order) else left[#left + 1] = order end
end
return left

-- script tell
-- ARGV: worker, order. Gives the queue that the worker listens in, or "".

-- with base

call('RPUSH', base .. ':orders:' .. ARGV[1], ARGV[2])
call('ZADD', base .. ':until', 'NX', '-inf', ARGV[1])
return call('HGET', base .. ':ears', ARGV[1]) or ''

-- script workers
-- ARGV: now. Gives the workers alive, each with what it said about itself.

-- with base

local list = {}
for i, worker in ipairs(call('ZRANGEBYSCORE', base .. ':until', '(' .. ARGV[1], '+inf')) do
  list[2 * i - 1], list[2 * i] = worker, call('HGET', base .. ':about', worker)
end
return list

-- script dismiss
-- ARGV: now, limit. Unregisters workers whose beat has ended; gives how many, and the queues with their versions.

-- with base

local n = 0

local function dismiss(worker)
  call('ZREM', base .. ':until', worker)
  call('HDEL', base .. ':about', worker)
  call('HDEL', base .. ':ears', worker)
  call('DEL', base .. ':orders:' .. worker)
end

for _, worker in ipairs(call('ZRANGEBYSCORE', base .. ':until', '-inf', '-inf', 'LIMIT', 0, 1000)) do
  dismiss(worker)
end
for _, worker in ipairs(call('ZRANGEBYSCORE', base .. ':until', '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])) do
  dismiss(worker)
  n = n + 1
end
return {n, call('HGETALL', base .. ':queues')}
