"""Huey on Redis. At most once either way; ``safe`` keeps results."""

import os

from huey import RedisHuey

from bench.peers import marks

SAFE = os.environ["BENCH_SETUP"] == "safe"
huey = RedisHuey("bench", url=os.environ["BENCH_URL"], results=SAFE, notify_result="BENCH_IDLE" in os.environ)


@huey.task()
def noop(number):
    marks.count()
    return number


@huey.task()
def stamp():
    marks.started(marks.now())


fire = noop
fire_stamp = stamp


def ask(number):
    noop(number).get(blocking=True, timeout=60)
