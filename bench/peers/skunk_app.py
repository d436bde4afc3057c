"""Our own jobs, on whatever store BENCH_URL names."""

import os

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


fire = noop.fire
fire_stamp = stamp.fire


def fire_many(numbers):
    noop.fire_many([(number,) for number in numbers])


def ask(number):
    noop.fire(number).wait(60)


def kept():
    return queue.count()["succeeded"]


def end():
    queue.close()
