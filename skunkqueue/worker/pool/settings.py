"""The settings of a pool, the slots made from them, and how a worker is described."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from skunkqueue.job import Carried
from skunkqueue.worker.hook import Hook
from skunkqueue.worker.pool.slot import Slot

HOST: Final = socket.gethostname()


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


def make_slots(settings: Settings) -> list[Slot]:
    """One worker per listed route; a route named twice gets two."""
    slots: list[Slot] = []
    for index, route in enumerate(settings.routes, 1):
        nth = sum(slot.route == route for slot in slots) + 1
        name = f"{settings.name}.{index}"
        slots.append(Slot(name, f"{route}.{nth}", settings.queue, route, settings.concurrency))
    return slots


def describe(settings: Settings, slot: Slot) -> str:
    """A description of a worker as JSON: where it is, which route it serves, what it runs."""
    about = {
        "queue": settings.queue,
        "routes": [slot.route],
        "host": HOST,
        "pid": slot.body.pid if slot.body is not None else None,
        "pool": settings.name,
        "pool_pid": os.getpid(),
        "concurrency": settings.concurrency,
        "runs": slot.runs,
        "running": [held.claim.id for held in slot.executing()],
    }
    return json.dumps(about)
