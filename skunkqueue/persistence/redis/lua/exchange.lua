-- The hot path: outcomes in, claims out; and leases made longer.

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
  -- with fields head notify tell mend claim cancel
  -- with commit_each commit_one hold_each hold_again
  made.notify = notify
  return made
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
  if waited then rare().notify({unpack(ARGV, at, last)}) end
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
