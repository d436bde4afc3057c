-- The Redis store's scripts. One script is one transaction, and one round trip.
--
-- These files are read together. A line "-- script NAME" starts a script, "-- part NAME" a part of scripts, and "-- with NAMES" is where such parts go.
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
--   :waiting       hash  id -> names of the wake keys of those who wait for its end
--   :bell:NAME     zset  a wake key: ids that have ended; one waiter blocks on it. Expires
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
    local _, colon, length = string.find(text, '^(%d+):', at)
    if not colon then _, colon, length = string.find(text, '^(%-):', at) end
    if not colon then break end -- damaged
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
  return tonumber(text) and not string.find(text, '[^%d.e+inf-]')
end

local function is_sound(envelope)
  local _, newline, due, route, keep, expires, length = string.find(envelope, '^!(%S+) (%S+) (%S+) (%S+) (%S+)\n')
  if not newline then
    _, newline, due, route, keep = string.find(envelope, '^=(%S+) (%S+) (%S+)\n')
    expires, length = '-', '-'
  end
  return newline and is_number(due) and is_number(keep) and string.find(route, '^[%w_.:^@~-]+$')
    and (expires == '-' or is_number(expires))
    and (length == '-' or string.find(length, '^%d+$') and tonumber(length) <= #envelope - newline) and route
end

-- The route of a run: the one on which it waits or runs, or of what has ended, the one in its envelope; else the likeliest.
-- letters are the states that it may be in.
local function lane_of(id, envelope, letters)
  local route = envelope and is_sound(envelope)
  if route and (letters or call('ZSCORE', base .. ':ripe:' .. route, id)) then return route end
  local names = call('HKEYS', base .. ':count')
  for _, name in ipairs(letters and {} or names) do
    if call('ZSCORE', base .. ':ripe:' .. string.sub(name, 2), id) then return string.sub(name, 2) end
  end
  if route then return route end
  local _, _, named = string.find(envelope or '', '[=!]%S+ (%S+) ')
  for _, name in ipairs(names) do
    if string.sub(name, 2) == named then return named end
  end
  for _, name in ipairs(names) do
    if string.find(letters or 'sfc', string.sub(name, 1, 1), 1, true) then return string.sub(name, 2) end
  end
  return '?'
end

-- The envelope, or one that can be read and names the right route, with what is there as its body. Whoever opens that says
-- that it is none.
local function sound(id, envelope, letters)
  local own = lane_of(id, envelope, letters)
  if is_sound(envelope) == own then return envelope end
  return '=0 ' .. own .. ' 86400\n' .. envelope
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
  local damaged
  for name, by in pairs(tally) do
    local n = by == 0 and 1 or redis.pcall('HINCRBY', base .. ':count', name, by)
    if type(n) == 'table' then
      damaged = damaged or {}
      damaged[#damaged + 1] = name
    elseif n <= 0 then
      call('HDEL', base .. ':count', name) -- below 0 it comes only by a damaged run, which was counted elsewhere
    end
  end
  if damaged then
    -- with recount
  end
end

-- part recount
-- Rare: these counts are no numbers, or cannot grow. Each becomes what its set holds, less what is counted there already.

for _, name in ipairs(damaged) do call('HDEL', base .. ':count', name) end
for _, name in ipairs(damaged) do
  local letter, route = string.sub(name, 1, 1), string.sub(name, 2)
  local is_open = letter == 'q' or letter == 'r'
  local n = call('ZCARD', base .. (is_open and ':ripe:' .. route or ':ended:' .. letter))
  local all = call('HGETALL', base .. ':count')
  for i = 1, #all, 2 do
    local same = is_open and string.find(all[i], '^[qr]') and string.sub(all[i], 2) == route
      or not is_open and string.sub(all[i], 1, 1) == letter
    local counted = tonumber(all[i + 1])
    if same and counted and counted <= n then n = n - counted end
  end
  if n > 0 then call('HSET', base .. ':count', name, string.format('%.0f', n)) end
end

-- part counts
-- The names of all counts, and true; for an internal route, which has no sub-routes, only its own. Nothing where they
-- are more than so many.

local function counts_of(route, most)
  if string.find(route, '~', 1, true) then
    local own = {}
    for letter in string.gmatch('qrsfc', '.') do
      if call('HEXISTS', base .. ':count', letter .. route) == 1 then own[#own + 1] = letter .. route end
    end
    return own
  end
  if call('HLEN', base .. ':count') <= most then return call('HKEYS', base .. ':count'), true end
end

-- part tell

-- Tell the pools of a run that is due later, so that each knows when to look, whoever dies. Who may not publish does not.
local function tell(route, due)
  if due ~= '' then redis.pcall('PUBLISH', base .. ':later', route .. ' ' .. due) end
end

-- part wake

local function wake(key)
  if call('ZADD', key, 0, '1') == 1 then call('PEXPIRE', key, 30000) end
end

local function mark(route)
  wake(base .. ':mark:' .. route)
end

-- part notify

local function notify(ids)
  if #ids == 0 or call('EXISTS', base .. ':waiting') == 0 then return end
  for i, names in ipairs(call('HMGET', base .. ':waiting', unpack(ids))) do
    if names then
      for name in string.gmatch(names, '%S+') do
        call('ZADD', base .. ':bell:' .. name, 0, ids[i])
        call('PEXPIRE', base .. ':bell:' .. name, 30000)
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
  local given = envelope
  envelope = sound(id, given)
  if envelope ~= given then call('HSET', base .. ':run', id, envelope) end
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

-- part budget
-- A script that has read so many bytes stops, so that others are served in between. It tells how many ids it looked at.

local MUCH, read = 4194304, 0

local function costs(id)
  read = read + call('HSTRLEN', base .. ':run', id) + call('HSTRLEN', base .. ':done', id)
end

-- part record

-- A brief record has only the start of the body, which has the job's name.
local BRIEF = 4096

local function cut(envelope)
  local unique = select(5, head(envelope))
  return string.sub(envelope, 1, string.find(envelope, '\n', 1, true) + #(unique or '') + BRIEF)
end

-- A run as id, envelope, state letter, ripe, claim (and result). Brief with most, which is the most bytes of a result.
local function add_record(list, id, envelope, most)
  envelope = envelope or call('HGET', base .. ':run', id)
  if not envelope then return end
  local done = call('HGET', base .. ':done', id)
  envelope = sound(id, envelope, done and 'sfc')
  local letter, ripe, claim
  if done then
    letter, claim = string.sub(done, 1, 1), string.sub(done, 2)
    local parts = fields(claim, 1)
    if #parts ~= 10 then
      claim = '-:-:1:00:-:-:-:-:' .. field('what became of it is damaged') .. '-:'
    elseif most and parts[8] and #parts[8] > most then
      parts[8] = false
      claim = joined(parts)
    end
    ripe = call('ZSCORE', base .. ':ended:' .. letter, id)
    for _, other in ipairs({'s', 'f', 'c'}) do
      if not ripe then letter, ripe = other, call('ZSCORE', base .. ':ended:' .. other, id) end
    end
  else
    claim, letter = claim_of(id)
    ripe = call('ZSCORE', base .. ':ripe:' .. head(envelope), id)
  end
  if most then envelope = cut(envelope) end
  local n = #list
  list[n + 1], list[n + 2], list[n + 3], list[n + 4], list[n + 5] = id, envelope, letter, ripe or '0', claim
end
