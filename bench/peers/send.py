"""Fires runs in a process of its own, in the environment of the queue measured; prints what it saw as one JSON line.

    python -m bench.peers.send MODULE one|many|beside|idle|ask|kept COUNT

The module has ``fire(number)`` and ``fire_stamp()``, and may have ``fire_many(numbers)``, ``ask(number)`` (fire and
wait for the result), ``begin()`` and ``end()``: all plain functions, or all coroutines. ``afire(number)`` is a
coroutine in any case, and ``kept()`` says how many results there are.
"""

import asyncio
import importlib
import inspect
import json
import os
import random
import sys
import time

from bench.peers import marks

CHUNK = 500
AT_ONCE = 200
"""Fires under way at a time in ``beside``."""
PAUSE = (0.01, 0.02)
"""Seconds between two runs on an idle queue, at random, so that no clock of the queue keeps step with ours."""


def main() -> None:
    """Do what the command line says."""
    module, what, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    app = importlib.import_module(module)
    print(json.dumps(asyncio.run(_asked(app, what, count)) if _is_async(app) else _plain(app, what, count)))


def _is_async(app) -> bool:
    return inspect.iscoroutinefunction(app.fire)


def _plain(app, what: str, count: int):
    getattr(app, "begin", lambda: None)()
    try:
        return PLAIN[what](app, count)
    finally:
        getattr(app, "end", lambda: None)()


async def _asked(app, what: str, count: int):
    if hasattr(app, "begin"):
        await app.begin()
    try:
        return await ASYNC[what](app, count)
    finally:
        if hasattr(app, "end"):
            await app.end()


def _chunks(count: int):
    return [range(first, min(first + CHUNK, count)) for first in range(0, count, CHUNK)]


# -- plain functions


def one(app, count: int) -> float:
    """Runs fired per second, one by one."""
    app.fire(0)  # connects
    began = time.perf_counter()
    for number in range(1, count):
        app.fire(number)
    return (count - 1) / (time.perf_counter() - began)


def many(app, count: int) -> float:
    """Runs fired per second, by 500."""
    app.fire(0)
    began = time.perf_counter()
    for numbers in _chunks(count - 1):
        app.fire_many(numbers)
    return (count - 1) / (time.perf_counter() - began)


def idle(app, count: int) -> list[float]:
    """Seconds from before each fire until the job's first line, on an idle queue."""
    starts = marks.Starts(os.environ["BENCH_MARKS"])
    took = []
    for _ in range(count):
        time.sleep(random.uniform(*PAUSE))
        began = marks.now()
        app.fire_stamp()
        took.append((starts.next() - began) / 1e9)
    starts.close()
    return took


def ask(app, count: int) -> list[float]:
    """Seconds from before each fire until its result is there."""
    took = []
    for number in range(count):
        time.sleep(random.uniform(*PAUSE))
        began = marks.now()
        app.ask(number)
        took.append((marks.now() - began) / 1e9)
    return took


def kept(app, count: int) -> int:
    """How many runs have succeeded and are remembered."""
    return app.kept()


def beside(app, count: int) -> float:
    """Runs fired per second from one event loop, 200 at a time."""
    return asyncio.run(beside_async(app, count))


PLAIN = {"one": one, "many": many, "beside": beside, "idle": idle, "ask": ask, "kept": kept}


# -- coroutines


async def one_async(app, count: int) -> float:
    """As ``one``."""
    await app.fire(0)
    began = time.perf_counter()
    for number in range(1, count):
        await app.fire(number)
    return (count - 1) / (time.perf_counter() - began)


async def many_async(app, count: int) -> float:
    """As ``many``."""
    await app.fire(0)
    began = time.perf_counter()
    for numbers in _chunks(count - 1):
        await app.fire_many(numbers)
    return (count - 1) / (time.perf_counter() - began)


async def beside_async(app, count: int) -> float:
    """As ``beside``."""
    fire = getattr(app, "afire", app.fire)
    await fire(0)
    numbers = iter(range(1, count))

    async def each() -> None:
        for number in numbers:
            await fire(number)

    began = time.perf_counter()
    await asyncio.gather(*(each() for _ in range(AT_ONCE)))
    return (count - 1) / (time.perf_counter() - began)


async def idle_async(app, count: int) -> list[float]:
    """As ``idle``."""
    starts = marks.Starts(os.environ["BENCH_MARKS"])
    took = []
    for _ in range(count):
        await asyncio.sleep(random.uniform(*PAUSE))
        began = marks.now()
        await app.fire_stamp()
        took.append((starts.next() - began) / 1e9)  # blocks the loop, which has nothing else to do
    starts.close()
    return took


async def ask_async(app, count: int) -> list[float]:
    """As ``ask``."""
    took = []
    for number in range(count):
        await asyncio.sleep(random.uniform(*PAUSE))
        began = marks.now()
        await app.ask(number)
        took.append((marks.now() - began) / 1e9)
    return took


ASYNC = {"one": one_async, "many": many_async, "beside": beside_async, "idle": idle_async, "ask": ask_async}

if __name__ == "__main__":
    main()
