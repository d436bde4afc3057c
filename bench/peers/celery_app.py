"""Celery on Redis. ``fast``: acknowledged early, no results; ``safe``: acknowledged late, results kept."""

import os

from celery import Celery

from bench.peers import marks

SAFE = os.environ["BENCH_SETUP"] == "safe"
URL = os.environ["BENCH_URL"]
app = Celery("bench", broker=URL, backend=URL if SAFE else None)
app.conf.update(
    task_ignore_result=not SAFE,
    task_acks_late=SAFE,
    task_reject_on_worker_lost=SAFE,
    worker_prefetch_multiplier=64,
    broker_connection_retry_on_startup=True,
)


@app.task(name="noop")
def noop(number):
    marks.count()
    return number


@app.task(name="stamp")
def stamp():
    marks.started(marks.now())


fire = noop.delay
fire_stamp = stamp.delay


def ask(number):
    noop.delay(number).get(timeout=60, interval=0.001)
