"""One step of a schedule: which ticks to make now, and when to look again. Times and records in, a decision out."""

from __future__ import annotations

from math import inf
from typing import Any, Final, NamedTuple

import msgpack

from skunkqueue.codec import decode_value, is_pickled
from skunkqueue.envelope import Record, State
from skunkqueue.schedules.definition import Definition
from skunkqueue.schedules.when import SHORTEST, Adaptive, Cron, Interval

MISSED: Final = ("once", "all", "skip")
OVERLAP: Final = ("skip", "queue")

MOST: Final = 500
"""Ticks that one step makes; a schedule that is further behind is looked at again at once."""
LATE: Final = 60.0
"""Seconds after which a tick counts as missed where missed ticks are skipped."""
LONGEST_LOOK: Final = 30.0
"""Most seconds between two looks at a run whose end is awaited."""
UNKNOWN_JOB: Final = "UnknownJob"


class Memory(NamedTuple):
    """What a schedule must remember from tick to tick: the notes of its run.

    ``next`` is the next tick (for one that follows its runs, 0 until the last run has ended), ``last`` the id of the
    last run, ``tick`` its time, ``interval`` the seconds between the last end and ``next``.
    """

    next: float
    last: str = ""
    tick: float = 0.0
    interval: float = 0.0

    def packed(self) -> bytes:
        data: bytes = msgpack.packb(tuple(self))
        return data


def remembered(definition: Definition, notes: bytes) -> Memory:
    """The memory of a schedule that has such notes; unreadable ones count as none."""
    try:
        next, last, tick, interval = msgpack.unpackb(notes)
        return Memory(float(next), str(last), float(tick), float(interval))
    except Exception:
        return Memory(definition.start, definition.last, interval=definition.interval)


class Step(NamedTuple):
    """What to do: the ``ticks`` to make, whether to ask the job's author, what to remember, and when to look again.

    ``look_at`` is infinite if there is no further tick. ``ended`` is why the schedule is over.
    """

    memory: Memory
    look_at: float
    ticks: tuple[float, ...] = ()
    asks: bool = False
    ended: str = ""


def step(
    definition: Definition, memory: Memory, *, now: float, last: Record | None, pace: Record | None, is_paused: bool
) -> Step:
    """Decide. ``last`` is the last run as the store knows it, ``pace`` what has been asked after it."""
    if definition.module and last is not None and _is_gone(last):
        return Step(memory, inf, ended=f"its job is gone: {last.error}"[:300])
    if isinstance(definition.when, Interval | Cron):
        return _fixed(definition, definition.when, memory, now, last, is_paused)
    if not memory.next:
        return _planned(definition, memory, now, last, pace)
    if memory.next > now:
        return Step(memory, memory.next)
    if is_paused:
        return Step(memory, now + LONGEST_LOOK)
    return Step(memory._replace(next=0.0, tick=memory.next), now + SHORTEST, (memory.next,))


def _is_gone(last: Record) -> bool:
    """Whether no worker knew the job, for as long as they had patience."""
    return last.state == State.FAILED and (last.error or "").startswith(UNKNOWN_JOB)


# -- ticks that only depend on the clock -----------------------------------------------------------------------------


def _fixed(
    definition: Definition, when: Interval | Cron, memory: Memory, now: float, last: Record | None, is_paused: bool
) -> Step:
    if memory.next > now:
        return Step(memory, memory.next)
    anchor = definition.anchor
    is_open = last is not None and last.open
    if is_paused or (is_open and definition.overlap == "skip"):
        return _made(memory, when.after(now, anchor), ())
    if definition.missed == "all":
        return _all(when, anchor, memory, now)
    latest = when.latest(memory.next, now, anchor)
    is_missed = definition.missed == "skip" and now - latest > LATE
    return _made(memory, when.after(latest, anchor), () if is_missed else (latest,))


def _all(when: Interval | Cron, anchor: float, memory: Memory, now: float) -> Step:
    ticks: list[float] = []
    tick = memory.next
    while tick <= now and len(ticks) < MOST:
        ticks.append(tick)
        tick = when.after(tick, anchor)
    return _made(memory, tick, tuple(ticks))


def _made(memory: Memory, next: float, ticks: tuple[float, ...]) -> Step:
    ended = "" if next < inf else "there is no further tick"
    tick = ticks[-1] if ticks else memory.tick
    return Step(memory._replace(next=next, tick=tick), next, ticks, False, ended)


# -- ticks that follow the last run ----------------------------------------------------------------------------------


def _planned(definition: Definition, memory: Memory, now: float, last: Record | None, pace: Record | None) -> Step:
    """Plan the next tick, once the last run has ended."""
    look = Step(memory, now + min(max(memory.interval / 10, SHORTEST), LONGEST_LOOK))
    if last is not None and last.open:
        return look
    ended = now if last is None or last.ended is None else last.ended
    if isinstance(definition.when, Adaptive):
        interval = _adapted(definition.when, memory, last)
    elif last is None:
        interval = memory.interval or LATE  # it is no longer kept
    elif pace is None:
        return look._replace(asks=True)
    elif pace.open:
        return look
    else:
        interval = _asked(pace, memory.interval or LATE)
    next = ended + interval
    return Step(memory._replace(next=next, interval=interval), next)


def _adapted(when: Adaptive, memory: Memory, last: Record | None) -> float:
    failed = last is not None and last.state != State.SUCCEEDED
    news = last is not None and last.state == State.SUCCEEDED and _is_news(last.value)
    return when.next(memory.interval or float(when.least), failed=failed, news=news)  # type: ignore[arg-type]


def _is_news(value: bytes | None) -> bool:
    """Whether a result counts as true, read without unpickling: what had to be pickled does."""
    return value is not None and (is_pickled(value) or bool(decode_value(value)))


def _asked(pace: Record, otherwise: float) -> float:
    """The seconds that the job's author has answered; what failed changes nothing."""
    if pace.state != State.SUCCEEDED or not pace.value:
        return otherwise
    answer: Any = None if is_pickled(pace.value) else decode_value(pace.value)
    return max(float(answer), SHORTEST) if isinstance(answer, int | float) else otherwise
