-- Making a queue whole again of which keys were lost or damaged.

-- script restore
-- ARGV: whether to write the ids on pages, whether to count them, ids. Puts into the sets what their envelopes and claims
-- say: a run that is in no set is never claimed, and never purged. Called with all ids, after keys were lost; to be
-- counted, with no counts left. Gives how many it looked at.

-- with base fields head mend open count claim pages budget

local ids, looked = {}, #ARGV - 2

-- The state in which a run has ended whose result was lost: it must not run again.
local function ended_as(id)
  for _, letter in ipairs({'s', 'f', 'c'}) do
    if call('ZSCORE', base .. ':ended:' .. letter, id) then return letter end
  end
end

local function restore_ended(id, envelope, done)
  local letter = string.sub(done, 1, 1)
  if not string.find('sfc', letter, 1, true) or letter == '' then letter = 'f' end
  local route, _, keep = head(sound(id, envelope, letter))
  local ended = tonumber(fields(done, 2)[10] or 0) or 0
  if not call('ZSCORE', base .. ':ended:' .. letter, id) then
    call('ZADD', base .. ':ended:' .. letter, string.format('%.17g', ended + math.max(tonumber(keep), 60)), id)
  end
  count(letter, route, 1)
end

local function restore_open(id, envelope)
  local own = sound(id, envelope)
  local route, due, _, expires, unique = head(own)
  if own ~= envelope then call('HSET', base .. ':run', id, own) end
  call('ZADD', base .. ':ripe:' .. route, 'NX', due, id)
  if expires then call('ZADD', base .. ':expires', expires, id) end
  if unique then take_key(id, route, unique) end
  local _, state = claim_of(id)
  count(state, route, 1)
end

for i = 3, #ARGV do
  if read > MUCH then
    looked = i - 3
    break
  end
  costs(ARGV[i])
  local envelope, done = call('HGET', base .. ':run', ARGV[i]), call('HGET', base .. ':done', ARGV[i])
  if envelope then
    ids[#ids + 1] = ARGV[i]
    if not done and call('HEXISTS', base .. ':claims', ARGV[i]) == 0 then
      done = ended_as(ARGV[i])
      if done then call('HSET', base .. ':done', ARGV[i], done) end
    end
    if done then restore_ended(ARGV[i], envelope, done) else restore_open(ARGV[i], envelope) end
  end
end
if ARGV[1] == '1' then write(ids) end
if ARGV[2] == '1' then keep_count() end
return looked

-- script recount
-- Counts anew what is queued and what is running, on each route: after claims were lost.

-- with base

local running, routes = {}, {}
for _, name in ipairs(call('HKEYS', base .. ':count')) do
  if string.find(name, '^[qr]') then routes[string.sub(name, 2)] = true end
end
local claims = call('HGETALL', base .. ':claims')
for i = 1, #claims, 2 do
  if string.sub(claims[i + 1], 1, 1) == 'r' then
    for route in pairs(routes) do
      if call('ZSCORE', base .. ':ripe:' .. route, claims[i]) then running[route] = (running[route] or 0) + 1 end
    end
  end
end
for route in pairs(routes) do
  local all, held = call('ZCARD', base .. ':ripe:' .. route), running[route] or 0
  call('HDEL', base .. ':count', 'q' .. route, 'r' .. route)
  if all > held then call('HSET', base .. ':count', 'q' .. route, all - held) end
  if held > 0 then call('HSET', base .. ':count', 'r' .. route, held) end
end

-- script drop
-- Deletes what is left of a queue whose envelopes are lost, and tells those who wait for its runs.

-- with base notify

if call('EXISTS', base .. ':run') == 1 then return end
local waited = call('HKEYS', base .. ':waiting')
for i = 1, #waited, 1000 do notify({unpack(waited, i, math.min(i + 999, #waited))}) end
for _, name in ipairs(call('HKEYS', base .. ':count')) do
  call('DEL', base .. ':ripe:' .. string.sub(name, 2), base .. ':mark:' .. string.sub(name, 2))
end
for _, page in ipairs(call('ZRANGE', base .. ':pages', 0, -1)) do call('DEL', base .. ':page:' .. page) end
for _, name in ipairs({
  'claims', 'done', 'pages', 'gone', 'ended:s', 'ended:f', 'ended:c', 'count', 'unique', 'expires', 'waiting'
}) do
  call('DEL', base .. ':' .. name)
end
