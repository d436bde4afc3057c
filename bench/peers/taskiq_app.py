"""Taskiq on Redis. BENCH_BROKER is ``list`` (at most once) or ``stream``; ``safe`` keeps results."""

import os

from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend, RedisStreamBroker

from bench.peers import marks

SAFE = os.environ["BENCH_SETUP"] == "safe"
URL = os.environ["BENCH_URL"]
# A stream from its first message on, or what is fired before a worker starts is never run.
BROKERS = {"list": (ListQueueBroker, {}), "stream": (RedisStreamBroker, {"consumer_id": "0"})}
kind, options = BROKERS[os.environ["BENCH_BROKER"]]
broker = kind(URL, **options)
if SAFE:
    broker = broker.with_result_backend(RedisAsyncResultBackend(URL, result_ex_time=86_400))


@broker.task(task_name="noop")
async def noop(number):
    await marks.nap()
    marks.count()
    return number


@broker.task(task_name="stamp")
async def stamp():
    marks.started(marks.now())


begin = broker.startup
end = broker.shutdown
fire_stamp = stamp.kiq


async def fire(number):
    return await noop.kiq(number)


async def ask(number):
    await (await noop.kiq(number)).wait_result(check_interval=0.0005, timeout=60)
