"""streaQ. At least once either way; ``safe`` keeps results for a day."""

import os

from streaq import Worker

from bench.peers import marks

SAFE = os.environ["BENCH_SETUP"] == "safe"
worker = Worker(
    redis_url=os.environ["BENCH_URL"], queue_name="bench", concurrency=int(os.environ.get("BENCH_CONCURRENCY", "32"))
)
TTL = 86_400 if SAFE else 0


@worker.task(ttl=TTL)
async def noop(number):
    await marks.nap()
    marks.count()
    return number


@worker.task(ttl=TTL)
async def stamp():
    marks.started(marks.now())


async def begin():
    await worker.__aenter__()


async def end():
    await worker.__aexit__(None, None, None)


async def fire(number):
    return await noop.enqueue(number)


async def fire_stamp():
    await stamp.enqueue()


async def fire_many(numbers):
    await worker.enqueue_many([noop.enqueue(number) for number in numbers])


async def ask(number):
    await (await noop.enqueue(number)).result(timeout=60)
