"""Executes what was fired, inside a test: with no other process and no waiting."""

from __future__ import annotations

import io
from typing import Any

from skunkqueue.envelope import Filter, State
from skunkqueue.errors import WrongCall
from skunkqueue.printable import said
from skunkqueue.queue import SkunkQueue
from skunkqueue.routes import base_route, is_internal
from skunkqueue.worker.pool.drain import drain as drain_here
from skunkqueue.worker.pool.log import Log
from skunkqueue.worker.pool.pool import WorkerPool


def drain(queue: SkunkQueue, *routes: str, errors: dict[str, BaseException] | None = None, **options: Any) -> str:
    """Execute the ripe runs of the routes on this thread, one after the other, and those that they fire there.

    Without routes, it serves all of them. Returns the log. Runs that are due later stay. What a job waits for is
    executed before the job goes on. ``options`` are those of WorkerPool; ``concurrency`` has no effect. On the main
    thread, a timeout interrupts the job at once. On another thread, it does so when the job next executes Python code:
    a sleep ends first. Ctrl-C hands the run back and is raised here. ``errors`` is given what jobs raised, by id of the
    run: the exceptions themselves. ::

        queue = SkunkQueue("test", "memory://")
        run = add.fire(1, 2)
        drain(queue)
        assert run.result == 3
    """
    if not isinstance(queue, SkunkQueue):
        raise WrongCall(f"drain takes a SkunkQueue, such as SkunkQueue('test', 'memory://'); got {said(queue)}")
    log = io.StringIO()
    pool = WorkerPool(queue, routes or "default", in_process=True, log=log, **options)
    told = Log(log, verbose=options.get("verbose", False), format=options.get("log_format", "text"))
    try:
        drain_here(queue.store, queue.clock, pool.settings, told, lambda: routes or _busy(queue), errors)
    finally:
        told.close()
    return log.getvalue()


def reset(queue: SkunkQueue) -> None:
    """Forget all runs of the ``memory://`` store of this queue, between two tests.

    Raises WrongCall for any other store, because its runs may be needed.
    """
    clear = getattr(queue.store, "clear", None) if queue.one_process else None
    if clear is None:
        raise WrongCall(f"reset is for a memory:// store; this queue is on {queue.url}")
    clear()


def _busy(queue: SkunkQueue) -> list[str]:
    """The routes that have queued runs."""
    which = Filter(queue=queue.name, state=State.QUEUED)
    found = queue.store.find(which, now=queue.clock.now(), limit=10_000)
    routes = dict.fromkeys(base_route(record.envelope.route) for record in reversed(found))
    return [route for route in routes if not is_internal(route)]
