-- Verbs about runs by their ids.

-- script cancel
-- ARGV: now, error or "", a latest ripe or "" (then only what is unleased by then is taken), ids.
-- Gives how many of the ids it looked at, then the records of those it took.

-- with base fields head mend count notify claim cancel budget record

local records, ids = {#ARGV - 3}, {}
call('DEL', base .. ':none')
for i = 4, #ARGV do
  if read > MUCH then
    records[1] = i - 4
    break
  end
  local id = ARGV[i]
  costs(id)
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
notify(ids)
return records

-- script reopen
-- ARGV: now, ids. Gives how many of the ids it looked at, then those it took.

-- with base head mend open count wake budget

local taken = {#ARGV - 1}

local function free(id, route, expires, unique)
  if expires and tonumber(expires) <= tonumber(ARGV[1]) then return false end
  return not unique or take_key(id, route, unique)
end

local function reopen(id)
  local done = call('HGET', base .. ':done', id)
  local letter = done and string.sub(done, 1, 1)
  if letter ~= 'f' and letter ~= 'c' then return end
  local envelope = sound(id, call('HGET', base .. ':run', id) or '', letter)
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

for i = 2, #ARGV do
  if read > MUCH then
    taken[1] = i - 2
    break
  end
  costs(ARGV[i])
  reopen(ARGV[i])
end
keep_count()
return taken

-- script promote
-- ARGV: now, ids. Makes those ripe that are queued for later. Gives how many of the ids it looked at, then those it took.

-- with base fields head mend open claim wake budget

local taken = {#ARGV - 1}

local function promote(id)
  if not is_open(id) then return end
  local _, state = claim_of(id)
  local route = lane_of(id, call('HGET', base .. ':run', id))
  if state ~= 'q' or tonumber(call('ZSCORE', base .. ':ripe:' .. route, id) or 0) <= tonumber(ARGV[1]) then return end
  call('ZADD', base .. ':ripe:' .. route, ARGV[1], id)
  mark(route)
  taken[#taken + 1] = id
end

for i = 2, #ARGV do
  if read > MUCH then
    taken[1] = i - 2
    break
  end
  costs(ARGV[i])
  promote(ARGV[i])
end
return taken

-- script discard
-- ARGV: now, how long an id is remembered, ids. Has ended runs kept no longer. Gives how many of the ids it looked at,
-- then those that have ended.

-- with base fields budget

local ended = {#ARGV - 2}

local function discard(id)
  local done = call('HGET', base .. ':done', id)
  if not done then return end
  local set = base .. ':ended:' .. string.sub(done, 1, 1)
  local kept, parts = call('ZSCORE', set, id), fields(done, 2)
  if not kept then return end
  local least = tonumber(ARGV[1])
  if #parts == 10 and tonumber(parts[10]) then least = math.max(least, tonumber(parts[10]) + tonumber(ARGV[2])) end
  if least < tonumber(kept) then call('ZADD', set, string.format('%.17g', least), id) end
  ended[#ended + 1] = id
end

for i = 3, #ARGV do
  if read > MUCH then
    ended[1] = i - 3
    break
  end
  costs(ARGV[i])
  discard(ARGV[i])
end
return ended

-- script get
-- ARGV: "1" for those that have ended only, the most bytes of a result or "" (then records are not brief), ids.
-- Gives how many of the ids it looked at, then the records.

-- with base fields head mend claim budget record

local only_ended, most = ARGV[1] == '1', tonumber(ARGV[2])
local records = {#ARGV - 2}
for i = 3, #ARGV do
  if read > MUCH then
    records[1] = i - 3
    break
  end
  if not only_ended or call('HEXISTS', base .. ':done', ARGV[i]) == 1 then
    costs(ARGV[i])
    add_record(records, ARGV[i], nil, most)
  end
end
return records

-- script open
-- ARGV: ids. Gives those that are open, each with the time from which it can only end as expired, or "". Reads no
-- envelopes.

-- with base fields open claim

local found = {}

local function lease_end(id)
  for _, name in ipairs(call('HKEYS', base .. ':count')) do
    local ripe = string.sub(name, 1, 1) == 'r' and call('ZSCORE', base .. ':ripe:' .. string.sub(name, 2), id)
    if ripe then return ripe end
  end
end

for _, id in ipairs(ARGV) do
  if is_open(id) then
    local expires = call('ZSCORE', base .. ':expires', id) or ''
    local _, state = claim_of(id)
    local lease = expires ~= '' and state == 'r' and lease_end(id)
    if lease and tonumber(lease) > tonumber(expires) then expires = lease end
    found[#found + 1], found[#found + 2] = id, expires
  end
end
return found
