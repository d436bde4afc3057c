"""Exchanges with a source so that an outcome that it cannot take never stops the others.

An outcome that is too large is not sent, and outcomes that are too many for one call are sent in several. If the source
refuses a call as a whole, its outcomes are sent by halves, until the one that it refuses is found; that run then fails
for good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from skunkqueue.envelope import Claim, Exchange, Outcome, Want
from skunkqueue.persistence import Limits, Source
from skunkqueue.persistence.halves import WHOLE, by_halves, isolated
from skunkqueue.routes import base_route, is_internal, shown_route

Pair = tuple[Claim, Outcome]

LONGEST_REASON: Final = 300

REST: Final = 8192
"""Most bytes of error, notes and note of an outcome together."""


def fits(outcomes: Sequence[Pair], limits: Limits) -> bool:
    """Whether these can be sent in one call. On the hot path: only values are measured, the rest is small."""
    if limits.items is not None and len(outcomes) > limits.items:
        return False
    total = largest = 0
    for _, outcome in outcomes:
        value = outcome[1]
        if value is not None:
            size = len(value)
            total += size
            if size > largest:
                largest = size
    return (limits.batch is None or total + len(outcomes) * REST <= limits.batch) and (
        limits.value is None or largest + REST <= limits.value
    )


def size_of(outcome: Outcome) -> int:
    """About how many bytes an outcome takes: values are large, the rest is bounded."""
    texts = (outcome.error, outcome.note)
    return len(outcome.value or b"") + len(outcome.notes or b"") + sum(len(text or "") for text in texts)


def parts(outcomes: Sequence[Pair], limits: Limits) -> Iterator[Sequence[Pair]]:
    """The outcomes, in order, split into what one call may carry."""
    start = size = 0
    for n, (_, outcome) in enumerate(outcomes):
        more = size_of(outcome)
        too_many = limits.items is not None and n - start >= limits.items
        if n > start and (too_many or (limits.batch is not None and size + more > limits.batch)):
            yield outcomes[start:n]
            start, size = n, 0
        size += more
    if start < len(outcomes):
        yield outcomes[start:]


def exchange_isolated(
    source: Source,
    outcomes: Sequence[Pair],
    wants: Sequence[Want],
    *,
    now: float,
    until: float,
    trouble: Callable[[str], None] = lambda text: None,
) -> Exchange:
    """As ``source.exchange``; what was refused is named, with the reason. Raises what concerns the whole source.

    ``trouble`` is told of wants that the source cannot meet while it meets others.
    """
    limits = source.limits
    if fits(outcomes, limits):
        try:
            return source.exchange(outcomes, wants, now=now, until=until)
        except WHOLE:
            raise
        except Exception as error:
            if not outcomes:
                return claim(source, wants, now=now, until=until, trouble=trouble)
            return _Isolation(source, now, trouble).exchange(outcomes, wants, until, error)
    return _Isolation(source, now, trouble).exchange(outcomes, wants, until, None)


def claim(
    source: Source, wants: Sequence[Want], *, now: float, until: float, trouble: Callable[[str], None]
) -> Exchange:
    """Claim for those wants that the source can meet. Raises where it meets none."""
    results, failed = by_halves(lambda some: source.exchange((), some, now=now, until=until), wants)
    for want, error in failed:
        trouble(f"nothing can be claimed of {_names(want.routes)}: {error}")
    claims = [claim for result in results for claim in result.claims]
    ripe = [result.next_ripe for result in results if result.next_ripe is not None]
    return Exchange(set(), claims, min(ripe, default=None))


def _names(routes: Sequence[str]) -> str:
    """Routes as people know them: what lies on an internal one belongs to the runs of another."""
    return ", ".join(dict.fromkeys(base_route(route) if is_internal(route) else shown_route(route) for route in routes))


@dataclass
class _Isolation:
    """One exchange, piece by piece."""

    source: Source
    now: float
    trouble: Callable[[str], None]
    taken: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)
    error: Exception | None = None
    has_taken: bool = False
    """Whether the source took anything. If it takes nothing at all, the fault is the source's."""

    def exchange(
        self, outcomes: Sequence[Pair], wants: Sequence[Want], until: float, error: Exception | None
    ) -> Exchange:
        self.error = error
        for part in parts([self._within(*pair) for pair in outcomes], self.source.limits):
            self._commit(part)
        result = claim(self.source, wants, now=self.now, until=until, trouble=self.trouble)
        if self.error is not None and not (self.has_taken or result.claims):
            raise self.error
        return result._replace(taken=result.taken | self.taken, refused={**self.refused, **result.refused})

    def _within(self, claim: Claim, outcome: Outcome) -> Pair:
        """The outcome; if it is too large, a failure that says so."""
        most = self.source.limits.value
        if most is None or size_of(outcome) <= most:
            return claim, outcome
        self.refused[claim.id] = (
            f"{_what(outcome)} cannot be kept: it is {size_of(outcome):,} bytes, the store takes {most:,}"
        )
        return claim, Outcome.failed(self.refused[claim.id])

    def _commit(self, pairs: Sequence[Pair]) -> None:
        """Commit; the run of an outcome that is refused by itself fails."""
        results, failed = isolated(lambda some: self.source.commit(some, now=self.now), pairs)
        for taken in results:
            self.has_taken = True
            self.taken |= taken
        for pair, error in failed:
            self.error = error
            self._fail(*pair, error)

    def _fail(self, claim: Claim, outcome: Outcome, error: Exception) -> None:
        """Fail the run whose outcome is refused, for good. A refused progress is only left out."""
        said = f"{error or type(error).__name__}"[:LONGEST_REASON]
        if outcome.kind == "progress":
            return
        self.refused[claim.id] = f"{_what(outcome)} cannot be kept: {said}"
        try:
            taken = self.source.commit([(claim, Outcome.failed(self.refused[claim.id]))], now=self.now)
        except WHOLE:
            raise
        except Exception:
            return  # the run cannot be written at all; its lease will end
        self.has_taken = True
        if outcome.kind != "started":  # else it would be started
            self.taken |= taken


def _what(outcome: Outcome) -> str:
    return "its result" if outcome.kind == "complete" else "what became of it"
