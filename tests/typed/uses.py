"""Right and wrong uses, for type checkers: each line that ends with ``# wrong`` must be an error, and no other may be.

Nothing here is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypeVar, assert_type

from skunkqueue import Backoff, Run, Runs, SkunkQueue, WorkerPool, current_run, default_cfg
from skunkqueue.facts import Attempt
from skunkqueue.persistence.memory import default_cfg as memory_cfg

queue = SkunkQueue("demo", **default_cfg)
SkunkQueue("demo", "sqlite:///a.db", max_payload=5)
SkunkQueue("demo", **memory_cfg, queue_type="broadcast")
SkunkQueue("demo", queue_type="brodcast")  # wrong
SkunkQueue(5)  # wrong
WorkerPool("demo", ["foo"], **default_cfg)
WorkerPool(queue, "foo", lease="30s", grace=timedelta(minutes=5), patience=600)
WorkerPool(queue, "foo", grace=["5m"])  # wrong


@queue.job
def add(x: int, y: int = 2) -> int:
    return x + y


@queue.job(routes="foo", retries=3, backoff=Backoff(first="1s"), timeout="5m", priority="high", serializer="plain")
async def later(x: str) -> list[str]:
    current_run().progress(0.5, "half way")
    return [x]


@queue.job(routes=("left", "right"))
def both(x: int) -> int:
    return x


news = SkunkQueue("news", queue_type="broadcast")


@news.job
def tell(x: str) -> int:
    return len(x)


@news.job(retries=2)
async def tell_later(x: str) -> int:
    return len(x)


T = TypeVar("T")


@queue.job
def pairs(things: Sequence[T]) -> list[tuple[T, T]]:
    return [(thing, thing) for thing in things]


@queue.job(retries=2)
async def ordered(first: T, second: T) -> tuple[T, T]:
    return first, second


@queue.on("failed")
def alert(run: Run[Any]) -> str:
    return run.id


@queue.on("failed", "succeeded", retries=3, routes="alerts")
async def told(run: Run[Any]) -> None: ...


queue.on("ended")  # wrong
queue.on("failed", retry=3)  # wrong
assert_type(alert(add.fire(1)), str)

# options
queue.job(retry=3)  # wrong
queue.job(priority="urgent")  # wrong
queue.job(serializer="json")  # wrong
queue.job(retries="3")  # wrong
queue.job(retry_on=ValueError, give_up_on=(KeyError, OSError))
add.options(timeout=5, unique="key").fire(1)
add.options(priority="urgent").fire(1)  # wrong

# firing
assert_type(add.fire(1), Run[int])
assert_type(add.fire(1, y=3), Run[int])
assert_type(add.fire_at("5m", 1), Run[int])
assert_type(later.fire("x"), Run[list[str]])
assert_type(both.fire(1), Runs[int])
assert_type(tell.fire("x"), Runs[int])
assert_type(tell_later.fire("x"), Runs[int])
assert_type(add.options(routes=("a", "b")).fire(1), Runs[int])
assert_type(add.options(retries=1).fire(1), Run[int])
add.fire("x")  # wrong
add.fire()  # wrong
add.fire(1, z=2)  # wrong
add.fire_at([], 1)  # wrong
later.fire(1)  # wrong
tell.fire(1)  # wrong
both.fire("x")  # wrong

# generic jobs
assert_type(pairs.fire([1]), Run[list[tuple[int, int]]])
assert_type(pairs.fire(["a"]).wait(), list[tuple[str, str]])
assert_type(ordered.fire(1.5, 2.5), Run[tuple[float, float]])
pairs.fire(5)  # wrong

# many
assert_type(add.fire_many([add.args(1), add.args(1, y=2), (3, 4)]), Runs[int])
add.fire_many([later.args("x")])  # wrong
add.fire_many([add.args("x")])  # wrong

# what comes back
assert_type(add.fire(1).wait("5s"), int)
assert_type(add.fire(1).result, int | None)
assert_type(both.fire(1).wait(), list[int])
assert_type(both.fire(1).results, list[int | None])
assert_type(tell.fire("x")[0], Run[int])
assert_type(add.fire(1).history, list[Attempt])
len(both.fire(1))
len(add.fire(1))  # wrong
add.fire(1).wait(timeout=[])  # wrong

# the desk
queue.runs(state="failed", limit=None)
queue.runs(state="done")  # wrong


async def awaited() -> None:
    assert_type(await add.fire(1), int)
    assert_type(await later.afire("x"), Run[list[str]])
    assert_type(await both.fire(1), list[int])
    assert_type(await tell.afire("x"), Runs[int])
    await add.afire("x")  # wrong


class Thing:
    @queue.job
    def build(self, height: int) -> str:
        return "x" * height


assert_type(Thing().build.fire(3), Run[str])
Thing().build.fire("x")  # wrong
