"""Sleepers without any queue: what this machine can do at most, as its timers and its processor have it."""

from __future__ import annotations

import asyncio
import threading
import time

from skunkqueue.worker.child.loop import new_loop


def tasks(at_once: int, nap: float, count: int) -> float:
    """Sleeps per second of so many tasks of one event loop, of the kind that workers use."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        began = time.perf_counter()
        runner.run(_tasks(at_once, nap, count))
        return count / (time.perf_counter() - began)


async def _tasks(at_once: int, nap: float, count: int) -> None:
    async def sleeper() -> None:
        for _ in range(count // at_once):
            await asyncio.sleep(nap)

    await asyncio.gather(*[sleeper() for _ in range(at_once)])


def threads(at_once: int, nap: float, count: int) -> float:
    """Sleeps per second of so many threads."""

    def sleeper() -> None:
        for _ in range(count // at_once):
            time.sleep(nap)

    sleepers = [threading.Thread(target=sleeper) for _ in range(at_once)]
    began = time.perf_counter()
    for each in sleepers:
        each.start()
    for each in sleepers:
        each.join()
    return count / (time.perf_counter() - began)
