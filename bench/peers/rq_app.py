"""RQ. ``fast``: no results; ``safe``: results kept, and tried again where a worker died."""

import os

from redis import Redis
from rq import Queue, Retry

from bench.peers import rq_jobs

SAFE = os.environ["BENCH_SETUP"] == "safe"
queue = Queue("bench", connection=Redis.from_url(os.environ["BENCH_URL"]))
options = {"result_ttl": 86_400, "retry": Retry(max=3)} if SAFE else {"result_ttl": 0}


def fire(number):
    return queue.enqueue(rq_jobs.noop, args=(number,), **options)


def fire_stamp():
    queue.enqueue(rq_jobs.stamp, **options)


def fire_many(numbers):
    queue.enqueue_many([Queue.prepare_data(rq_jobs.noop, args=(number,), **options) for number in numbers])


def ask(number):
    fire(number).latest_result(timeout=60)
