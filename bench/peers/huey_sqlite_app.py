"""Huey on SQLite: as safe as it can be made (``safe``), or as fast (``fast``: nothing synced, no results)."""

import os

from huey import SqliteHuey

from bench.peers import marks

SAFE = os.environ["BENCH_SETUP"] == "safe"
huey = SqliteHuey("bench", filename=os.environ["BENCH_FILE"], fsync=SAFE, results=SAFE)


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
    noop(number).get(blocking=True, timeout=60, backoff=1.0)
