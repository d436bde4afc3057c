"""Jobs for the torture: each start leaves its number in a file of its process, before anything else."""

import asyncio
import os
import time

from skunkqueue import SkunkQueue

queue = SkunkQueue("demo")
_traces = {}


def leave_trace(number):
    """Eight bytes in one write: there or not, whatever is killed when."""
    trace = _traces.get(os.getpid())
    if trace is None:
        path = os.path.join(os.environ["MARKS"], f"trace-{os.getpid()}-{time.monotonic_ns()}")
        trace = _traces[os.getpid()] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(trace, number.to_bytes(8, "little"))


@queue.event(routes=["foo"])
def quick(number):
    leave_trace(number)
    return number


@queue.event(routes=["bar"])
def slow(number):
    leave_trace(number)
    end = time.monotonic() + 0.05
    while time.monotonic() < end:
        time.sleep(0.005)
    return number


@queue.event(routes=["bar"])
async def waiting(number):
    leave_trace(number)
    await asyncio.sleep(0.05)
    return number


@queue.event(routes=["foo"], at_most_once=True)
def once(number):
    leave_trace(number)
    return number


@queue.event(routes=["foo"], retries=50, backoff=0.01)
def flaky(number):
    leave_trace(number)
    if os.urandom(1)[0] < 128:
        raise ValueError("not this time")
    return number


@queue.event(routes=["bar"], retries=50, backoff=0.01, timeout=0.2)
def overdue(number):
    leave_trace(number)
    if os.urandom(1)[0] < 64:
        time.sleep(60)
    return number
