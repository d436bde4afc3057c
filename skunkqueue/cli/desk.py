"""The desk: a store as a command sees it. ``-q`` limits it to one queue, and the time is the same for all its calls."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Final

import click

from skunkqueue.cli.which import ID_LENGTH, Which, fired_at
from skunkqueue.clock import Clock
from skunkqueue.envelope import Filter, Record, State, is_shown, stored_like
from skunkqueue.errors import StoreError, WrongCall
from skunkqueue.persistence import Persister
from skunkqueue.persistence.url import get_backend
from skunkqueue.routes import is_internal

PAGE = 500
ALL = Which()
SHORTEST = 4
"""Characters of an ending of an id, at least."""
MOST_LOOKED = 100_000
"""Runs, the newest ones, among which an ending is looked for."""

SLACK = 60.0
"""Seconds by which the clocks of those that fire may differ: ids are as old as these say."""

_ESCAPED: Final = re.compile(r"\\udc([89a-f][0-9a-f])|\\x([01][0-9a-f]|7f)")
"""What ``printable`` writes for a byte that is no text, and for a control character."""


def _meant(shown: re.Match[str]) -> str:
    return chr(0xDC00 + int(shown[1], 16)) if shown[1] else chr(int(shown[2], 16))


class Desk:
    """Opened by a command, and closed when the command ends. Raises WrongCall and StoreError, as stores do."""

    def __init__(self, url: str | None, queue: str | None) -> None:
        self.store: Persister = get_backend(url)
        self.queue = queue
        if self.store.missing:
            raise StoreError(self.store.missing)
        click.get_current_context().call_on_close(self.store.close)

        self._clock = Clock(self.store.offset)

    @cached_property
    def now(self) -> float:
        """When the command first asked, in the store's time."""
        return self.time()

    def time(self) -> float:
        """The store's time, for what looks more than once."""
        return self._clock.now()

    @property
    def where(self) -> str:
        """The store, with the queue if one is given, as sentences name it."""
        return f"queue {self.queue} of {self.store.url}" if self.queue else self.store.url

    def named(self, ids: Sequence[str]) -> list[str]:
        """The ids as the store has them: one that is no text is given as it is shown."""
        shown = {id: raw for id in ids if (raw := _ESCAPED.sub(_meant, id)) != id}
        there = self.store.get_brief([*shown, *shown.values()]) if shown else {}
        return [shown[id] if id in shown and id not in there and shown[id] in there else id for id in ids]

    def records(self, ids: Sequence[str]) -> dict[str, Record]:
        """The runs with these ids that exist, in the queue if one is given."""
        return {id: record for id, record in self.store.get_brief(ids).items() if self._is_ours(record.envelope.queue)}

    def ids_of(self, given: Sequence[str]) -> dict[str, str]:
        """The id that each word means: itself, or the id of the one run that ends so. Others stay as they are.

        Raises WrongCall for an ending that several runs have.
        """
        named = dict(zip(given, self.named(given), strict=True))
        known = self.records(list(named.values()))
        endings = [word for word in given if named[word] not in known and SHORTEST <= len(word) < ID_LENGTH]
        found = self._by_ending(endings) if endings else {}
        return {word: found.get(word, id) for word, id in named.items()}

    def _by_ending(self, endings: Sequence[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for record in self.find(limit=MOST_LOOKED, values=0):
            for ending in endings:
                if record.id.endswith(ending):
                    if ending in found:
                        raise WrongCall(f"runs {found[ending]} and {record.id} both end in {ending}: give more of it")
                    found[ending] = record.id
        return found

    def workers(self) -> dict[str, str]:
        """What each worker alive says of itself, by its name in the store."""
        return self.store.workers(now=self.now)

    def no_run(self, id: str) -> str:
        """The error for the id of no run."""
        return f"there is no run {id} on {self.where}"

    def whole(self, id: str) -> Record | None:
        """The run with this id, with all of its body and result."""
        record = self.store.get([id]).get(id)
        return record if record is not None and self._is_ours(record.envelope.queue) else None

    def find(
        self, which: Which = ALL, limit: int | None = None, *, values: int | None = None, bodies: bool = False
    ) -> Iterator[Record]:
        """Records, newest first, page by page; values of more than ``values`` bytes may be None.

        Long bodies are cut, unless ``bodies`` are wanted, with which values are whole too.
        """
        start = which.from_time(self.now)
        wanted = Filter(self.queue, which.route, stored_like(which.state))
        size = min(PAGE, limit or PAGE)
        after: str | None = None
        while True:
            if bodies:
                page = self.store.find(wanted, now=self.now, after=after, limit=size)
            else:
                page = self.store.find_brief(wanted, now=self.now, after=after, limit=size, values=values)
            shown = (record for record in page if is_shown(record, which.state))
            fitting = [record for record in shown if which.fits(record, start)][:limit]
            yield from fitting
            limit = None if limit is None else limit - len(fitting)
            if not page or limit == 0 or (start is not None and fired_at(page[-1]) < start - SLACK):
                return
            after = page[-1].id

    def counts(self) -> dict[str, int]:
        """How many runs by stored state."""
        counts: dict[str, int] = {}
        for (queue, route, state), number in self.store.count().items():
            if self._is_ours(queue) and not is_internal(route):
                counts[state] = counts.get(state, 0) + number
        return counts

    def summary(self) -> str:
        """The counts, for people."""
        counts = self.counts()
        names = {State.QUEUED: "queued or scheduled"}
        told = ", ".join(f"{counts[state]:,} {names.get(state, state)}" for state in State if counts.get(state))
        return f"{self.where}: {told or 'no runs'}"

    def _is_ours(self, queue: str) -> bool:
        return self.queue in (None, queue)
