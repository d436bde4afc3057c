"""The limits of Redis: the least that any correct queue must do there, measured beside our store.

``python bench/raw_redis.py`` starts a server of its own and prints how much of each limit our store keeps. The raw side
puts, claims by 64 with a lease and a token, checks the token, stores the result with its expiry, and nothing else: no
states to count, no order among routes, no waiters, no ids of sealed envelopes. It speaks through redis-py's client,
as its user would.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import redis

from skunkqueue.envelope import Claim, Envelope, Outcome, Want
from skunkqueue.ids import new_id
from skunkqueue.persistence import WorkKey
from skunkqueue.persistence.redis import RedisPersister, open_url
from skunkqueue.routes import with_priorities

BODY = b"x" * 120
BATCH = 64
CHUNK = 500

RAW_PUT = """
for i = 1, #ARGV, 3 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 2])
  redis.call('ZADD', KEYS[2], ARGV[i + 1], ARGV[i])
end
redis.call('LPUSH', KEYS[3], 1)
redis.call('LTRIM', KEYS[3], 0, 0)
return #ARGV / 3
"""

RAW_STEP = """
-- runs, ripe, tokens, results; token, now, until, limit, then times (id, token, result)
for i = 5, #ARGV, 3 do
  if redis.call('HGET', KEYS[3], ARGV[i]) == ARGV[i + 1] then
    redis.call('HDEL', KEYS[3], ARGV[i])
    redis.call('ZREM', KEYS[2], ARGV[i])
    redis.call('SET', KEYS[4] .. ARGV[i], ARGV[i + 2], 'PX', 86400000)
  end
end
local ids = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[2], 'LIMIT', 0, ARGV[4])
if #ids == 0 then return {ids, ids} end
local leases, tokens = {}, {}
for i, id in ipairs(ids) do
  leases[2 * i - 1], leases[2 * i] = ARGV[3], id
  tokens[2 * i - 1], tokens[2 * i] = id, ARGV[1]
end
redis.call('ZADD', KEYS[2], unpack(leases))
redis.call('HSET', KEYS[3], unpack(tokens))
return {ids, redis.call('HMGET', KEYS[1], unpack(ids))}
"""


def raw_put_one(url: str, count: int = 20_000) -> float:
    """Puts per second, one at a time, by a script through redis-py."""
    client = _emptied(url)
    sha = client.script_load(RAW_PUT)
    began = time.perf_counter()
    for _ in range(count):
        now = time.time()
        client.evalsha(sha, 3, "{raw}:runs", "{raw}:ripe", "{raw}:mark", new_id(now), repr(now), BODY)
    return count / (time.perf_counter() - began)


def raw_put_many(url: str, count: int = 100_000, chunk: int = CHUNK) -> float:
    """Puts per second, by 500."""
    client = _emptied(url)
    sha = client.script_load(RAW_PUT)
    began = time.perf_counter()
    for _ in range(count // chunk):
        now = time.time()
        due = repr(now)
        args = [each for _ in range(chunk) for each in (new_id(now), due, BODY)]
        client.evalsha(sha, 3, "{raw}:runs", "{raw}:ripe", "{raw}:mark", *args)
    return count / (time.perf_counter() - began)


def raw_drain(url: str, count: int = 100_000, batch: int = BATCH) -> float:
    """Runs per second, claimed and ended by batches in one script per turn."""
    raw_put_many(url, count)
    client = redis.Redis.from_url(url)
    sha = client.script_load(RAW_STEP)
    keys = ("{raw}:runs", "{raw}:ripe", "{raw}:tokens", "{raw}:result:")
    done: list[object] = []
    drained = turn = 0
    began = time.perf_counter()
    while drained < count:
        turn += 1
        now = time.time()
        token = f"{turn:024x}"
        ids, _ = client.evalsha(sha, 4, *keys, token, repr(now), repr(now + 15), batch, *done)
        done = [each for id in ids for each in (id, token, b"result")]
        drained += len(ids)
    return count / (time.perf_counter() - began)


def raw_pingpong(url: str, count: int = 2_000) -> tuple[float, float]:
    """Seconds from LPUSH in this process to the return of BRPOP in another: the median and the 99th percentile."""
    client = _emptied(url)
    there = multiprocessing.get_context("spawn").Process(target=_echo, args=(url, count))
    there.start()
    client.brpop("ready", 60)
    took = []
    for _ in range(count):
        time.sleep(0.0005)  # the other side is blocking again
        client.lpush("ping", repr(time.perf_counter()))
        answer = client.brpop("pong", 60)
        took.append(float(answer[1]))  # type: ignore[index]
    there.join(60)
    return statistics.median(took), statistics.quantiles(took, n=100)[98]


def _echo(url: str, count: int) -> None:
    client = redis.Redis.from_url(url, socket_timeout=None)
    client.lpush("ready", 1)
    for _ in range(count):
        sent = client.brpop("ping", 60)
        client.lpush("pong", repr(time.perf_counter() - float(sent[1])))  # type: ignore[index]


def _emptied(url: str) -> redis.Redis:
    client = redis.Redis.from_url(url, socket_timeout=None)
    client.flushall()
    return client


# our store


def our_put_one(url: str, count: int = 20_000) -> float:
    """As ``raw_put_one``, by our store."""
    store = _our_store(url)
    began = time.perf_counter()
    for _ in range(count):
        store.put([_envelope(time.time())])
    return count / (time.perf_counter() - began)


def our_put_many(url: str, count: int = 100_000, chunk: int = CHUNK) -> float:
    """As ``raw_put_many``, by our store."""
    store = _our_store(url)
    began = time.perf_counter()
    for _ in range(count // chunk):
        now = time.time()
        store.put([_envelope(now) for _ in range(chunk)])
    return count / (time.perf_counter() - began)


def our_drain(url: str, count: int = 100_000, batch: int = BATCH) -> float:
    """As ``raw_drain``, by our store's ``exchange``."""
    our_put_many(url, count)
    store = open_url(url)
    routes = with_priorities("foo")
    done: list[tuple[Claim, Outcome]] = []
    drained = turn = 0
    began = time.perf_counter()
    while drained < count or done:
        turn += 1
        now = time.time()
        want = Want("bench", routes, "worker-1", f"{turn:024x}", batch)
        claims = store.exchange(done, [want], now=now, until=now + 15).claims
        done = [(claim, Outcome.complete(b"result")) for claim in claims]
        drained += len(claims)
    return count / (time.perf_counter() - began)


def our_wakeup(url: str, count: int = 2_000) -> tuple[float, float]:
    """Seconds from ``put`` in this process to the claim in another that waited: the median and the 99th percentile."""
    store = _our_store(url)
    client = redis.Redis.from_url(url, socket_timeout=None)
    there = multiprocessing.get_context("spawn").Process(target=_fetcher, args=(url, count))
    there.start()
    client.brpop("ready", 60)
    took = []
    for _ in range(count):
        time.sleep(0.001)  # the other side is blocking again
        now = time.time()
        store.put([Envelope(new_id(now), "bench", "foo", now, repr(time.perf_counter()).encode())])
        answer = client.brpop("pong", 60)
        took.append(float(answer[1]))  # type: ignore[index]
    there.join(60)
    return statistics.median(took), statistics.quantiles(took, n=100)[98]


def _fetcher(url: str, count: int) -> None:
    store, client = open_url(url), redis.Redis.from_url(url, socket_timeout=None)
    store.wait([WorkKey("bench", "foo")], 0.01)
    client.lpush("ready", 1)
    done: list[tuple[Claim, Outcome]] = []
    turn = 0
    while turn < count or done:
        if not done:
            store.wait([WorkKey("bench", "foo")], 10)
        now = time.time()
        want = Want("bench", with_priorities("foo"), "worker-1", f"{turn:024x}", 1)
        claims = store.exchange(done, [want], now=now, until=now + 15).claims
        done = [(claim, Outcome.complete(b"")) for claim in claims]
        for claim in claims:
            client.lpush("pong", repr(time.perf_counter() - float(claim.envelope.body)))
            turn += 1


def _envelope(now: float) -> Envelope:
    return Envelope(new_id(now), "bench", "foo", now, BODY)


def _our_store(url: str) -> RedisPersister:
    _emptied(url)
    store = open_url(url)
    store.count()
    return store


@contextmanager
def server(*options: str) -> Iterator[str]:
    """A redis-server of our own on a unix socket; gives its URL."""
    with tempfile.TemporaryDirectory(prefix="skunk-bench-") as folder:
        path = os.path.join(folder, "redis.sock")
        command = ["redis-server", "--port", "0", "--unixsocket", path, "--dir", folder, "--save", "", *options]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            _await(path)
            yield f"unix://{path}?db=0"
        finally:
            process.kill()
            process.wait()


def _await(path: str) -> None:
    for _ in range(500):
        try:
            redis.Redis(unix_socket_path=path).ping()
        except redis.ConnectionError:
            time.sleep(0.02)
        else:
            return
    raise SystemExit("redis-server did not start")


def compare(url: str, rounds: int = 3) -> None:
    """Print each limit, what our store reaches, and the ratio; the best of some rounds, taken in turns."""
    pairs: list[tuple[str, Callable[[str], float], Callable[[str], float]]] = [
        ("put one by one", raw_put_one, our_put_one),
        ("put by 500", raw_put_many, our_put_many),
        ("drain by 64", raw_drain, our_drain),
    ]
    for name, raw, ours in pairs:
        figures = [(raw(url), ours(url)) for _ in range(rounds)]
        limit, reached = max(f[0] for f in figures), max(f[1] for f in figures)
        print(f"{name:20} raw {limit:9,.0f}/s   ours {reached:9,.0f}/s   ratio {reached / limit:.2f}")
    (raw_median, raw_late), (our_median, our_late) = raw_pingpong(url), our_wakeup(url)
    print(f"{'LPUSH to BRPOP':20} median {raw_median * 1e6:7.0f} us   99 % {raw_late * 1e6:7.0f} us")
    print(f"{'put to claim':20} median {our_median * 1e6:7.0f} us   99 % {our_late * 1e6:7.0f} us", end="")
    print(f"   ratio {our_median / raw_median:.2f} and {our_late / raw_late:.2f}")


def main() -> None:
    if len(sys.argv) > 1:
        compare(sys.argv[1])
    else:
        with server() as url:
            compare(url)


if __name__ == "__main__":
    main()
