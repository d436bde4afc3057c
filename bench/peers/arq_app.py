"""arq. At least once either way; ``safe`` keeps results for a day."""

import os

from arq import create_pool
from arq.connections import RedisSettings

from bench.peers import marks

SAFE = os.environ["BENCH_SETUP"] == "safe"
SETTINGS = RedisSettings.from_dsn(os.environ["BENCH_URL"])


async def noop(ctx, number):
    await marks.nap()
    marks.count()
    return number


async def stamp(ctx):
    marks.started(marks.now())


class WorkerSettings:
    functions = [noop, stamp]
    redis_settings = SETTINGS
    keep_result = 86_400 if SAFE else 0
    max_jobs = int(os.environ.get("BENCH_CONCURRENCY", "100"))
    poll_delay = 0.001 if "BENCH_IDLE" in os.environ else 0.01


class Pool:
    pool = None


async def begin():
    Pool.pool = await create_pool(SETTINGS)


async def end():
    await Pool.pool.aclose()


async def fire(number):
    return await Pool.pool.enqueue_job("noop", number)


async def fire_stamp():
    await Pool.pool.enqueue_job("stamp")


async def ask(number):
    await (await fire(number)).result(timeout=60, poll_delay=0.0005)
