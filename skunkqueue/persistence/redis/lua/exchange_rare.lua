-- What an exchange does seldom, run by run.

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
  notify({id})
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
      notify({id})
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
