-- Workers, their orders, and who waits for what.

-- script listen
-- ARGV: the name of a wake key, ids. Has it set when one of them ends; at once where one has ended, or is not here.

-- with base

local WAITING, WAKE_KEY = base .. ':waiting', base .. ':bell:' .. ARGV[1]
call('DEL', WAKE_KEY) -- what has rung for an earlier wait
for i = 2, #ARGV do
  if call('HEXISTS', base .. ':run', ARGV[i]) == 0 or call('HEXISTS', base .. ':done', ARGV[i]) == 1 then
    call('ZADD', WAKE_KEY, 0, ARGV[i])
    return call('PEXPIRE', WAKE_KEY, 30000)
  end
end
for i = 2, #ARGV do
  local names = call('HGET', WAITING, ARGV[i]) or ''
  if not string.find(names, ARGV[1], 1, true) then call('HSET', WAITING, ARGV[i], names .. ' ' .. ARGV[1]) end
end
return 0

-- script wake
-- ARGV: worker. Wakes the pool that waits for its orders.

-- with base wake

wake(base .. ':call:' .. ARGV[1])
return 1

-- part stay
-- Keys of the store stay as long as a heartbeat lasts, and an hour: where all pools died, nobody else deletes them.

local function stay(seconds, keys)
  for _, key in ipairs(keys) do
    if call('PTTL', key) < seconds * 1000 then call('EXPIRE', key, seconds) end
  end
end

-- script beat
-- ARGV: worker, until, about, seconds that this is good for, queue it listens in or "", ids of orders seen. Gives the orders
-- left.

-- with base stay

local worker, left = ARGV[1], {}
local ORDERS = base .. ':orders:' .. worker
call('ZADD', base .. ':until', ARGV[2], worker)
call('HSET', base .. ':about', worker, ARGV[3])
if ARGV[5] ~= '' then call('HSET', base .. ':ears', worker, ARGV[5]) end
stay(tonumber(ARGV[4]), {base .. ':until', base .. ':about', base .. ':ears', ORDERS})
local seen = {}
for i = 6, #ARGV do seen[ARGV[i]] = true end
for _, order in ipairs(call('LRANGE', ORDERS, 0, -1)) do
  if seen[string.match(order, '^%S+')] then call('LREM', ORDERS, 1, order) else left[#left + 1] = order end
end
return left

-- script tell
-- ARGV: worker, order. Gives the queue that the worker listens in, or "".

-- with base stay

call('RPUSH', base .. ':orders:' .. ARGV[1], ARGV[2])
call('ZADD', base .. ':until', 'NX', '-inf', ARGV[1])
stay(3600, {base .. ':until', base .. ':orders:' .. ARGV[1]})
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
-- ARGV: now, limit. Unregisters workers whose beat has ended; gives their names.

-- with base

local function dismiss(worker)
  call('ZREM', base .. ':until', worker)
  call('HDEL', base .. ':about', worker)
  call('HDEL', base .. ':ears', worker)
  call('DEL', base .. ':orders:' .. worker)
end

for _, worker in ipairs(call('ZRANGEBYSCORE', base .. ':until', '-inf', '-inf', 'LIMIT', 0, 1000)) do
  dismiss(worker)
end
local gone = call('ZRANGEBYSCORE', base .. ':until', '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
for _, worker in ipairs(gone) do dismiss(worker) end
return gone
