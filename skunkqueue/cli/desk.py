"""The desk: a store as a command sees it, through ``-q`` where that is given, at one moment of the store's time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import click

from skunkqueue.cli.rows import job_of
from skunkqueue.clock import Clock
from skunkqueue.envelope import Filter, Record, State
from skunkqueue.persistence import Persister
from skunkqueue.persistence.url import get_backend

PAGE = 500


class Desk:
    """Opened by a command, closed with it. Raises WrongCall and StoreError, as stores do."""

    def __init__(self, url: str | None, queue: str | None) -> None:
        self.store: Persister = get_backend(url)
        self.queue = queue
        click.get_current_context().call_on_close(self.store.close)

    @cached_property
    def now(self) -> float:
        """When the command first asked, in the store's time."""
        return Clock(self.store.offset).now()

    @property
    def where(self) -> str:
        """For sentences."""
        return f"queue {self.queue} of {self.store.url}" if self.queue else self.store.url

    def records(self, ids: Sequence[str]) -> dict[str, Record]:
        """The runs there are, of the queue asked for."""
        return {id: record for id, record in self.store.get(ids).items() if self._is_ours(record.envelope.queue)}

    def no_run(self, id: str) -> str:
        """The sentence for an ID that leads nowhere."""
        return f"there is no run {id} on {self.where}"

    def find(
        self, *, route: str | None = None, state: State | None = None, job: str | None = None, limit: int | None = None
    ) -> Iterator[Record]:
        """Records, newest first, page by page."""
        which = Filter(self.queue, route, state)
        size = PAGE if job is not None else min(PAGE, limit or PAGE)
        after: str | None = None
        while True:
            page = self.store.find(which, now=self.now, after=after, limit=size)
            fitting = [record for record in page if job is None or job_of(record) == job][:limit]
            yield from fitting
            limit = None if limit is None else limit - len(fitting)
            if len(page) < size or limit == 0:
                return
            after = page[-1].id

    def counts(self) -> dict[str, int]:
        """How many runs by stored state."""
        counts: dict[str, int] = {}
        for (queue, _, state), number in self.store.count().items():
            if self._is_ours(queue):
                counts[state] = counts.get(state, 0) + number
        return counts

    def summary(self) -> str:
        """The counts, for people."""
        counts = self.counts()
        told = ", ".join(f"{counts[state]:,} {state}" for state in State if counts.get(state))
        return f"{self.where}: {told or 'no runs'}"

    def _is_ours(self, queue: str) -> bool:
        return self.queue in (None, queue)
