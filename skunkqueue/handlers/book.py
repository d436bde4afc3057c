"""The handlers that a store holds: declare some, forget some, read all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from skunkqueue.envelope import Record
from skunkqueue.errors import PayloadError
from skunkqueue.handlers.handler import EndHandler, read
from skunkqueue.persistence import Persister
from skunkqueue.persistence.put import put
from skunkqueue.schedules.paused import standing


def readable(records: Iterable[Record]) -> list[tuple[str, EndHandler]]:
    """Those of the runs on the route of pauses that hold a handler that can be read, with their ids."""
    found = []
    for record in records:
        try:
            found.append((record.id, read(record.envelope)))
        except PayloadError:
            continue
    return found


def declare(
    store: Persister, queue: str, handlers: Sequence[EndHandler], *, now: float, undeclared: Iterable[str] = ()
) -> None:
    """See that the store holds these handlers, and no others of their names.

    ``undeclared`` are modules: what they had declared in an earlier deployment, and do not any more, ends.
    """
    there = readable(standing(store, queue, now=now))
    held = {handler for _, handler in there}
    names = {(handler.event, handler.name) for handler in handlers}
    modules = frozenset(undeclared)
    new = [handler for handler in handlers if handler not in held]
    if new:
        put(store, [handler.envelope(queue) for handler in new])
    wanted = frozenset(handlers)
    over = [
        id
        for id, handler in there
        if handler not in wanted and ((handler.event, handler.name) in names or handler.module in modules)
    ]
    if over:
        store.cancel(over, now=now)
