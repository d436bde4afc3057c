"""Puts the runs of handlers: what a pool knows of them, and which are called for the outcomes that it commits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from skunkqueue.envelope import Claim, Envelope, Outcome, peek_head
from skunkqueue.errors import PayloadError
from skunkqueue.handlers.handler import EndHandler

EVENT_OF: Final = {"complete": "succeeded", "failed": "failed"}
"""How a run ends with an outcome of a kind; all other kinds end none."""

Pair = tuple[Claim, Outcome]


class Ends:
    """The handlers of a queue, from the store and from the code that the workers of this pool have imported.

    May be told of handlers by one thread and asked by another.
    """

    def __init__(self, queue: str) -> None:
        self._queue = queue
        self._own: dict[tuple[str, str], EndHandler] = {}
        self._stored: dict[tuple[str, str], EndHandler] = {}
        self._by_event: dict[str, list[EndHandler]] = {}
        self._names: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self._by_event)

    def hear(self, handlers: Iterable[EndHandler]) -> None:
        """Code that was imported here declares these."""
        self._own = {**self._own, **{(each.event, each.name): each for each in handlers}}
        self._sort()

    def begin_anew(self, handlers: Iterable[EndHandler]) -> None:
        """The workers that have told are replaced: of what code declares here, these are left."""
        self._own = {}
        self.hear(handlers)

    def know(self, handlers: Iterable[EndHandler]) -> None:
        """The store holds these, and no others."""
        found = {(each.event, each.name): each for each in handlers}
        if found != self._stored:
            self._stored = found
            self._sort()

    def _sort(self) -> None:
        by_event: dict[str, list[EndHandler]] = {}
        for handler in {**self._stored, **self._own}.values():
            by_event.setdefault(handler.event, []).append(handler)
        self._names = frozenset(each.name for some in by_event.values() for each in some)
        self._by_event = by_event

    def runs(self, outcomes: Sequence[Pair], now: float) -> list[Envelope]:
        """The runs that call the handlers of what these outcomes end. To be put before they are committed."""
        return [
            run
            for claim, outcome in outcomes
            if (handlers := self._by_event.get(EVENT_OF.get(outcome.kind, "")))
            for run in self._runs(claim, handlers, now)
        ]

    def of_refused(self, outcomes: Sequence[Pair], refused: Mapping[str, str], now: float) -> list[Envelope]:
        """The same for runs that were to succeed, and failed as the store refused their results."""
        handlers = self._by_event.get("failed", [])
        failed = [claim for claim, outcome in outcomes if claim.id in refused and outcome.kind == "complete"]
        return [run for claim in failed for run in self._runs(claim, handlers, now)]

    def _runs(self, claim: Claim, handlers: Sequence[EndHandler], now: float) -> list[Envelope]:
        envelope = claim.envelope
        if self._is_handler(envelope):
            return []
        return [run for each in handlers for run in each.run(envelope.id, envelope.route, self._queue, now)]

    def _is_handler(self, envelope: Envelope) -> bool:
        """Whether it is the run of a handler: those call none, or one that fails would call itself for ever."""
        try:
            return peek_head(envelope.body).name in self._names
        except PayloadError:
            return False
