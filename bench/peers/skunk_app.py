"""Our own jobs, on whatever store BENCH_URL names; BENCH_JOB says which of them is fired.

Where BENCH_ROUTES names several routes, the runs that measure latency go to one after the other.
"""

import asyncio
import itertools
import os
import time

from bench.peers import marks
from skunkqueue import SkunkQueue

queue = SkunkQueue("bench", os.environ["BENCH_URL"])


@queue.event(routes="work")
def noop(number):
    marks.count()
    return number


@queue.event(routes="work")
def stamp():
    marks.started(marks.now())


@queue.event(routes="work")
async def anoop(number):
    marks.count()
    return number


@queue.event(routes="work")
def nap(number):
    time.sleep(marks.NAP)
    marks.count()
    return number


@queue.event(routes="work")
async def anap(number):
    await asyncio.sleep(marks.NAP)
    marks.count()
    return number


job = {"noop": noop, "anoop": anoop, "nap": nap, "anap": anap}[os.environ.get("BENCH_JOB", "noop")]
fire = job.fire
afire = job.afire


def _in_turns(job):
    fires = itertools.cycle([job.options(routes=route).fire for route in ROUTES])
    return lambda *args: next(fires)(*args)


ROUTES = os.environ.get("BENCH_ROUTES", "work").split(",")
fire_stamp, fire_noop = (stamp.fire, noop.fire) if len(ROUTES) == 1 else (_in_turns(stamp), _in_turns(noop))


def fire_many(numbers):
    job.fire_many([(number,) for number in numbers])


def ask(number):
    fire_noop(number).wait(60)


def kept():
    return queue.count()["succeeded"]


def end():
    queue.close()
