"""Dramatiq on Redis. At least once either way; ``safe`` keeps results."""

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from bench.peers import marks

SAFE = os.environ["BENCH_SETUP"] == "safe"
URL = os.environ["BENCH_URL"]
broker = RedisBroker(url=URL)
if SAFE:
    broker.add_middleware(Results(backend=RedisBackend(url=URL)))
dramatiq.set_broker(broker)
options = {"store_results": True, "result_ttl": 86_400_000} if SAFE else {}


@dramatiq.actor(**options)
def noop(number):
    marks.count()
    return number


@dramatiq.actor
def stamp():
    marks.started(marks.now())


fire = noop.send
fire_stamp = stamp.send


def ask(number):
    noop.send(number).get_result(block=True, timeout=60_000)
