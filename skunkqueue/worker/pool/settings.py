"""The settings of a pool, the slots made from them, and how a worker is described."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from skunkqueue.clock import Clock, ticks
from skunkqueue.job import Carried
from skunkqueue.worker.hook import Hook
from skunkqueue.worker.pool.slot import Slot

HOST: Final = socket.gethostname()

LONGEST_LABEL: Final = 46
"""Characters of the short name of a worker that are part of its address, with the pool's before it."""


@dataclass(frozen=True)
class Settings:
    """The settings of a pool; all times are in seconds."""

    name: str
    queue: str
    routes: tuple[str, ...]
    concurrency: int = 1
    lease: float = 15.0
    patience: float = 600.0
    kill_after: float = 5.0
    grace: float | None = None
    max_runs: int | None = None
    in_process: bool = False
    max_payload: int = 1 << 20
    imports: tuple[str, ...] = ()
    url: str = field(default="", repr=False)  # with its secrets, for jobs that fire
    jobs: Mapping[str, Carried] = field(default_factory=dict)  # jobs that workers in this process know by name
    hook: Hook | None = None  # makes the jobs that worker processes know
    reload: bool = False  # whether a worker that cannot import its modules waits for a reload; else the pool ends
    restart: bool = True  # whether a worker that has died is replaced; else the pool ends when none is left


def make_slots(settings: Settings) -> list[Slot]:
    """One worker per listed route; a route named twice gets two."""
    slots: list[Slot] = []
    for index, route in enumerate(settings.routes, 1):
        nth = sum(slot.route == route for slot in slots) + 1
        label = f"{route}.{nth}"
        name = f"{settings.name}.{label if len(label) <= LONGEST_LABEL else index}"
        slots.append(Slot(name, label, settings.queue, route, settings.concurrency))
    return slots


def describe(settings: Settings, slot: Slot, clock: Clock) -> str:
    """A description of a worker as JSON: what it is called, where it is, which route it serves, what it runs.

    ``doing`` are the jobs of ``running``, each with the store time at which it started (0: not known).
    """
    executing = [held for each in (slot, *slot.older) for held in each.executing()]
    base = clock.now() - ticks()
    about = {
        "name": slot.label,
        "queue": settings.queue,
        "routes": [slot.route],
        "host": HOST,
        "pid": slot.body.pid if slot.body is not None else None,
        "pool": settings.name,
        "pool_pid": os.getpid(),
        "concurrency": settings.concurrency,
        "runs": slot.runs,
        "running": [held.claim.id for held in executing],
        "doing": [[held.name, round(base + held.since, 3) if held.since else 0.0] for held in executing],
    }
    return json.dumps(about)
