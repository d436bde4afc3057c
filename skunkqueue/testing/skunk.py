"""What the pytest fixture ``skunk`` gives: queues in memory for one test, whose ``drain`` raises what jobs raise."""

from __future__ import annotations

import os
from asyncio import CancelledError
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final, Self

from pytest import MonkeyPatch

import skunkqueue
from skunkqueue.connection import Connection, connect, let_go
from skunkqueue.envelope import Filter, Record, State
from skunkqueue.errors import Interrupted, WrongCall
from skunkqueue.persistence.url import locate
from skunkqueue.printable import said
from skunkqueue.queue import PAGE, SkunkQueue
from skunkqueue.testing.pools import drain as drain_queue

_OURS: Final = os.path.join(os.path.dirname(skunkqueue.__file__), "")
_ENDS: Final = (Interrupted, CancelledError, SystemExit, GeneratorExit)
"""What ends a run from outside, or ends more than the run: a test gets JobFailed, as a program does."""


class Skunk:
    """Queues in memory, for one test.

    Every ``memory://`` queue has an empty store of its own for the test. Using a queue on any other store raises
    WrongCall, unless it was named: ``replace`` gives it a store in memory for the test, ``allow`` lets it use its own.

    ``queue`` is one to make jobs on. ``drain`` executes what was fired. Not to be used by two threads at a time.
    """

    def __init__(self) -> None:
        self._patch = MonkeyPatch()
        self._real: Any = SkunkQueue.connection
        self._allowed: set[str] = set()
        self._replaced: set[str] = set()
        self._stores: dict[str, Connection] = {}  # in memory, by the URL that they stand for
        self._queues: dict[tuple[str, str], SkunkQueue] = {}  # those with such a store that were used, in that order
        self.queue: SkunkQueue = SkunkQueue("test", "memory://skunk")

    def __enter__(self) -> Self:
        self._is_in_memory: Any = SkunkQueue.one_process
        self._patch.setattr(SkunkQueue, "connection", property(self._connection))
        self._patch.setattr(SkunkQueue, "one_process", property(self._one_process))
        return self

    def __exit__(self, *exception: object) -> None:
        self._patch.undo()
        for connection in self._stores.values():
            _clear(connection)
            let_go(connection, self)

    # which store

    def replace(self, *stores: SkunkQueue | str) -> None:
        """Give these stores, named by a queue on each or by URL, a stand-in in memory for this test."""
        self._replaced.update(map(_url, stores))

    def allow(self, *stores: SkunkQueue | str) -> None:
        """Let this test use these stores, named by a queue on each or by URL."""
        self._allowed.update(map(_url, stores))

    def _connection(self, queue: SkunkQueue) -> Connection:
        url = queue.full_url
        if not self._stands_in(queue):
            if url not in self._allowed:
                raise WrongCall(_REFUSAL.format(queue=queue))
            connection: Connection = self._real.fget(queue)
            return connection
        self._queues.setdefault((url, queue.name), queue)
        if url not in self._stores:
            self._stores[url] = connect(locate(f"memory://skunk-{len(self._stores)}"), self)
            _clear(self._stores[url])  # a thread that an earlier test left may have used it after that test
        return self._stores[url]

    def _one_process(self, queue: SkunkQueue) -> bool:
        return bool(self._is_in_memory.fget(queue)) or self._stands_in(queue)

    def _stands_in(self, queue: SkunkQueue) -> bool:
        url = queue.full_url
        return url not in self._allowed and (url in self._replaced or self._is_in_memory.fget(queue))

    # executing

    def drain(self, *routes: str, raises: bool = True, **options: Any) -> str:
        """Execute on this thread what is ripe on all queues in memory, and what that fires; returns the log.

        With routes, only theirs. Runs that are due later stay, retries too. Afterwards it raises what the first run
        that failed has raised, with the traceback of the job; JobFailed where that was no exception of the job.
        ``raises=False`` leaves that to the test. ``options`` are those of ``skunkqueue.testing.drain``.
        """
        __tracebackhide__ = True
        before = {record.id for _, record in self._failed()}
        errors: dict[str, BaseException] = {}
        logs: list[str] = []
        while any(new := [drain_queue(queue, *routes, errors=errors, **options) for queue in [*self._queues.values()]]):
            logs += new
        failed = [(queue, record) for queue, record in self._failed() if record.id not in before]
        if failed and raises:
            _raise(*min(failed, key=lambda pair: (pair[1].ended or 0.0, pair[1].id)), errors, len(failed))
        return "".join(logs)

    def _failed(self) -> Iterator[tuple[SkunkQueue, Record]]:
        """The runs that have failed, of all queues in memory."""
        for queue in [*self._queues.values()]:
            which, after = Filter(queue.name, state=State.FAILED), None
            while page := queue.store.find(which, now=queue.now(), after=after, limit=PAGE):
                yield from ((queue, record) for record in page)
                after = page[-1].id


_REFUSAL: Final = (
    "queue {queue.name} is on {queue.url}, and with the fixture skunk a test uses no real store: skunk.replace(queue) "
    "gives it one in memory for the test, skunk.allow(queue) lets it use its own"
)


def _url(store: SkunkQueue | str) -> str:
    if isinstance(store, SkunkQueue):
        return store.full_url
    if isinstance(store, str) and "://" in store:
        return locate(store).url
    raise WrongCall(f"a store is named by a queue on it, or by its URL; got {said(store)}")


def _clear(connection: Connection) -> None:
    clear: Any = connection.store.clear  # type: ignore[attr-defined] # of the store in memory
    clear()


def _raise(queue: SkunkQueue, record: Record, errors: dict[str, BaseException], count: int) -> None:
    """Raise what a job raised, as if the test had called it; else JobFailed."""
    __tracebackhide__ = True
    error = errors.get(record.id)
    if error is None or isinstance(error, _ENDS) or not (record.error or "").startswith(type(error).__name__):
        queue.run(record.id).wait(0)
        return
    others = f", and {count - 1} other runs failed" if count > 1 else ""
    error.add_note(f"(raised by run {record.id} of queue {queue.name}{others})")
    raise error.with_traceback(_of_the_job(error.__traceback__))


def _of_the_job(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from the job's own frame on; all of it where it has none."""
    own = trace
    while own is not None and own.tb_frame.f_code.co_filename.startswith(_OURS):
        own = own.tb_next
    return own or trace
