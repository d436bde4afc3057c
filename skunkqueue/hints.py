"""Says why nothing happens: that no worker serves what somebody waits for, and which command starts one."""

from __future__ import annotations

import sys
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol, TypeVar

from skunkqueue.clock import ticks
from skunkqueue.draining import draining
from skunkqueue.envelope import Envelope, Record, State
from skunkqueue.errors import SkunkError
from skunkqueue.notes import decode_notes
from skunkqueue.printable import printable
from skunkqueue.routes import base_route

T = TypeVar("T")

AFTER: Final = 2.0
"""Seconds of waiting after which a missing worker is told."""

LOOK: Final = 0.05
"""Seconds; a shorter wait is a look."""

MOST_TOLD: Final = 1000
"""Routes that are remembered as told."""

MOST_LOOKED_AT: Final = 20
"""Runs known by id only that are looked at to learn their routes."""

_told: set[tuple[str, str, str]] = set()
"""Store, queue and route of which this process has told that nobody serves them."""


class Waited(Protocol):
    """What is asked of a run that somebody waits for; a Run has it."""

    id: str
    _queue: Any
    _envelope: Envelope | None
    _record: Record | None

    @property
    def state(self) -> State: ...
    def _is_open(self) -> bool: ...


def unserved(run: Waited) -> str:
    """In one sentence, that no worker alive serves the route of a queued run, or that the route is paused; empty if
    neither is so, or it is not queued. Of one that waits for others too: who lets it go serves its route.

    Raises what the store raises.
    """
    state = run.state  # asks the store, which may tell the envelope too
    envelope = envelope_of(run)
    if envelope is None or state not in (State.QUEUED, State.WAITING):
        return ""
    queue, route = run._queue, base_route(envelope.route)
    workers = queue.store.workers(now=queue.clock.now_at_last())
    if route.startswith("@"):
        return "" if route[1:] in workers else f"the worker {route[1:]}, to which it was sent, is gone"
    if any(_may_serve(about, queue.name, route) for about in workers.values()):
        return _paused(queue, route) if state == State.QUEUED else ""
    where = f"route {route} of queue {queue.name} on {queue.store.url}"
    if queue.one_process:
        return f"no worker serves {where}; that store needs one in this process: WorkerPool(queue, in_process=True)"
    return f"no worker serves {where}; to start one: {how_to_serve(queue.name, route)}"


def _paused(queue: Any, route: str) -> str:
    """In one sentence, that nothing starts on the route because it is paused; empty if it is not."""
    paused = queue.paused()
    if route not in paused:
        return ""
    until = "" if paused[route] is None else f" until {paused[route]:%Y-%m-%d %H:%M:%S}"
    return f"route {route} of queue {queue.name} is paused{until}; to go on: skunq resume -q {queue.name} -r {route}"


def _unknown(run: Waited) -> str:
    """In one sentence, that the workers that have met it cannot have its job; empty if none has."""
    record = run._record
    if record is None or record.state != State.QUEUED or decode_notes(record.notes).unknown is None:
        return ""  # it is executing, perhaps by one that can
    return f"the workers on its route cannot have its job: {record.error}"


def _may_serve(about: str, queue: str, route: str) -> bool:
    """Whether a worker serves the route. One that names no routes may: it serves others than us."""
    import json  # late: not needed to fire

    try:
        told = json.loads(about)
        return told["queue"] == queue and (not told["routes"] or route in map(base_route, told["routes"]))
    except (ValueError, KeyError, TypeError):
        return False


def how_to_serve(queue: str, route: str) -> str:
    """The command that starts a worker on a route."""
    return f"skunq work -q {queue}" + ("" if route == "default" else f" -r {route}")


def tell(runs: Sequence[Waited]) -> None:
    """Say on stderr, once in this process for each route, that no worker serves it. Never raises."""
    for key, run in _one_of_each_route(runs).items():
        with suppress(Exception):  # a store that is away, a stderr that is closed: a hint stops nobody
            why = unserved(run) or _unknown(run)
            if why:
                if len(_told) >= MOST_TOLD:
                    _told.clear()
                _told.add(key)
                sys.stderr.write(printable(f"skunkqueue: waiting for run {run.id}: {why}") + "\n")


def _one_of_each_route(runs: Sequence[Waited]) -> dict[tuple[str, str, str], Waited]:
    found: dict[tuple[str, str, str], Waited] = {}
    for run in [run for run in runs if envelope_of(run) is None][:MOST_LOOKED_AT]:
        with suppress(SkunkError):  # it is gone
            run.state  # noqa: B018 - asks the store
    for run in runs:
        envelope = envelope_of(run)
        if envelope is not None and run._is_open():
            key = (run._queue.url, envelope.queue, base_route(envelope.route))
            if key not in _told:
                found.setdefault(key, run)
    return found


def envelope_of(run: Waited) -> Envelope | None:
    """What its sender sealed, as far as it is known here."""
    return run._envelope if run._record is None else run._record.envelope


class Hint:
    """Of one wait: tells after ``AFTER`` seconds, once, of the runs that nobody will execute."""

    def __init__(self) -> None:
        self._began = ticks()
        self._is_told = draining.step is not None  # then this thread executes what it waits for

    def look(self, runs: Sequence[Waited]) -> None:
        """Tell of these, if it is time."""
        if not self._is_told and ticks() - self._began >= AFTER:
            self._is_told = True
            tell(runs)

    def why(self, run: Waited) -> str:
        """That nobody serves it, as far as that can be told; a wait that was only a look asks no second question."""
        if ticks() - self._began < LOOK or draining.step is not None:
            return ""
        with suppress(SkunkError):
            return unserved(run)
        return ""


async def hinting(runs: Sequence[Waited], ended: Coroutine[Any, Any, T]) -> T:
    """Await the end of runs; after ``AFTER`` seconds tell, on another thread, of those that nobody will execute."""
    import asyncio

    loop = asyncio.get_running_loop()
    if draining.step is not None:
        return await ended
    timer = loop.call_later(AFTER, lambda: loop.run_in_executor(None, tell, list(runs)))
    try:
        return await ended
    finally:
        timer.cancel()
