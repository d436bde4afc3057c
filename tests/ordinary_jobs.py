"""Jobs of every kind, for random schedules: function, async, method, partial, decorated; some misbehave once."""

import asyncio
import functools
import os
import time
from pathlib import Path

from skunkqueue import Retry, SkunkQueue

queue = SkunkQueue("demo", os.environ.get("SKUNKQUEUE_URL") or "memory://ordinary")


def work(number, seconds=0):
    time.sleep(seconds)
    return number


async def work_async(number, seconds=0):
    await asyncio.sleep(seconds)
    return number


def loud(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)

    return wrapper


@loud
def decorated(number, seconds=0):
    return work(number, seconds)


class Thing:
    def __init__(self, name):
        self.name = name

    @queue.event
    def method(self, number, seconds=0):
        return work(number, seconds)


def first_time(number, what):
    """Whether this is the first try of that run, in whichever process."""
    mark = Path(os.environ["MARKS"]) / f"{what}-{number}"
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def hold(number, gate):
    """Until the file is there."""
    while not os.path.exists(gate):
        time.sleep(0.01)
    return number


def retry(number, after):
    if first_time(number, "retry"):
        raise Retry(after=after)
    return number


def die(number):
    if first_time(number, "die"):
        os._exit(7)
    return number


def fail(number):
    if first_time(number, "fail"):
        raise ValueError("as it should")
    return number


KINDS = {
    "function": queue.event(work),
    "async": queue.event(work_async),
    "method": Thing("thing").method,
    "partial": queue.event(functools.partial(work)),
    "decorated": queue.event(decorated),
}
ONCE = queue.event(work, at_most_once=True)
RETRY = queue.event(retry, retries=3)
HOLD, DIE, FAIL = (queue.event(job) for job in (hold, die, fail))
