"""SAQ. ``fast``: nothing kept, tried once; ``safe``: results kept for a day, tried again where a worker died."""

import os

from saq import Queue

from bench.peers import marks

SAFE = os.environ["BENCH_SETUP"] == "safe"
queue = Queue.from_url(os.environ["BENCH_URL"], name="bench")
options = {"ttl": 86_400, "retries": 3} if SAFE else {"ttl": -1}


async def noop(ctx, *, number):
    await marks.nap()
    marks.count()
    return number


async def stamp(ctx):
    marks.started(marks.now())


settings = {"queue": queue, "functions": [noop, stamp], "concurrency": int(os.environ.get("BENCH_CONCURRENCY", "30"))}

begin = queue.connect
end = queue.disconnect


async def fire(number):
    return await queue.enqueue("noop", number=number, **options)


async def fire_stamp():
    await queue.enqueue("stamp", **options)


async def ask(number):
    await queue.apply("noop", poll_interval=0.0005, number=number, **options)
