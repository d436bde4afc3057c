"""Running what was fired, inside a test: no other process, no waiting."""

from __future__ import annotations

import io
from typing import Any

from skunkqueue.envelope import Filter, State, base_route
from skunkqueue.queue import SkunkQueue
from skunkqueue.worker.pool.pool import WorkerPool


def drain(queue: SkunkQueue, *routes: str, **options: Any) -> str:
    """Run, on threads of this process, all that is ripe on the routes (all routes with something queued when none is
    named) and all that it fires there; gives the pool's log.

    What is due later stays. ``options`` are those of WorkerPool. ::

        queue = SkunkQueue("test", "memory://")
        run = add.fire(1, 2)
        drain(queue)
        assert run.result == 3
    """
    log = io.StringIO()
    pool = WorkerPool(queue, routes or _busy(queue), in_process=True, log=log, **options)
    pool.run_until_idle()
    return log.getvalue()


def _busy(queue: SkunkQueue) -> list[str]:
    """The routes on which something is queued, or else the default one."""
    which = Filter(queue=queue.name, state=State.QUEUED)
    found = queue.store.find(which, now=queue.clock.now(), limit=10_000)
    return list(dict.fromkeys(base_route(record.envelope.route) for record in found)) or ["default"]
