"""What is asked of the store in one call, and in which order: nobody's many wishes hold up those of the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from skunkqueue.clock import ticks
from skunkqueue.envelope import Claim, Envelope, Outcome, Want
from skunkqueue.persistence import Persister

MOST: Final = 1000
"""Puts, or outcomes, or wants of one batch."""
MOST_ROUTES: Final = 3000
"""Routes that all claims of a batch may look at together."""
WHILE: Final = 0.02
"""Seconds for which questions of peers are asked, before puts, commits and claims come again."""
COSTLY: Final = 0.002
"""Seconds from which on questions of peers were costly: the next ones wait for SHARE times as long."""
SHARE: Final = 3.0


class PutCall(NamedTuple):
    """An envelope to put; ``then`` is given the id of its run, or the error."""

    envelope: Envelope
    then: Callable[[str | Exception], None]
    since: float


class CommitCall(NamedTuple):
    """An outcome to commit; ``then`` is told whether it was taken, and why it could not be kept (or "")."""

    claim: Claim
    outcome: Outcome
    then: Callable[[bool, str], None]


class ClaimCall(NamedTuple):
    """A want; ``then`` is given the claims, and when to look again where there is none (0 where that is not known)."""

    want: Want
    then: Callable[[Sequence[Claim], float], None]


class AskCall(NamedTuple):
    """Any other call; ``then`` is given its answer, or the error if the store is away."""

    ask: Callable[[Persister, float], Any]
    then: Callable[[Any], None]
    whose: Any = None


class Batch:
    """What was asked since the last call."""

    def __init__(self) -> None:
        self.puts: list[PutCall] = []
        self.commits: list[CommitCall] = []
        self.claims: list[ClaimCall] = []
        self.asks: list[AskCall] = []
        self.questions: list[AskCall] = []
        """Asks of peers."""
        self.took: float = 0.0
        """Seconds that the questions took."""

    def __bool__(self) -> bool:
        return bool(self.puts or self.commits or self.claims or self.asks or self.questions)

    def take(self) -> Batch:
        """The first of each, as a batch of their own."""
        taken = Batch()
        for mine, its in zip(self.lists(), taken.lists(), strict=True):
            its.extend(mine[:MOST])
            del mine[:MOST]
        if len(taken.claims) > 1:
            taken.claims, left = _few_routes(taken.claims)
            self.claims[:0] = left
        return taken

    def again(self, batch: Batch) -> None:
        """Put what is left of a batch that failed before what came since."""
        self.puts[:0] = batch.puts
        self.commits[:0] = [call for call in batch.commits if call.outcome.kind != "progress"]
        self.claims[:0] = [call._replace(want=call.want._replace(repeated=True)) for call in batch.claims]
        self.asks[:0] = batch.asks

    def lists(self) -> tuple[list[Any], ...]:
        return self.puts, self.commits, self.claims, self.asks


def _few_routes(claims: list[ClaimCall]) -> tuple[list[ClaimCall], list[ClaimCall]]:
    """As many of the claims as have MOST_ROUTES together, and the rest. Where these are too many, the oldest comes
    first, then those of workers that can do little: who can do a lot holds up only those who can too.
    """
    if sum(len(call.want.routes) for call in claims) <= MOST_ROUTES:
        return claims, []
    order = [*claims[:1], *sorted(claims[1:], key=lambda call: len(call.want.routes))]
    now, routes = 0, 0
    while now < len(order) and (routes := routes + len(order[now].want.routes)) <= MOST_ROUTES:
        now += 1
    now = max(1, now)
    chosen = set(map(id, order[:now]))
    return order[:now], [call for call in claims if id(call) not in chosen]


class Questions:
    """What peers ask, one of each in turn, and none while the last ones were costly: so nobody's hold up others'."""

    def __init__(self) -> None:
        self._by_asker: dict[Any, deque[AskCall]] = {}
        self._at = 0.0

    def __bool__(self) -> bool:
        return bool(self._by_asker)

    @property
    def pause(self) -> float:
        """Seconds until some may be asked."""
        return self._at - ticks()

    def add(self, call: AskCall) -> None:
        self._by_asker.setdefault(call.whose, deque()).append(call)

    def take(self) -> list[AskCall]:
        """The oldest of each asker."""
        taken = [self._by_asker[asker].popleft() for asker in list(self._by_asker)[:MOST]]
        for call in taken:
            rest = self._by_asker.pop(call.whose)
            if rest:
                self._by_asker[call.whose] = rest  # behind the others
        return taken

    def asked(self, batch: Batch) -> None:
        """Those of a batch were asked; what is left of it comes first the next time."""
        if batch.took > COSTLY:
            self._at = ticks() + SHARE * batch.took
        waited, self._by_asker = self._by_asker, {}
        for call in batch.questions:  # there was no time for them: their askers come first now
            self._by_asker[call.whose] = deque((call, *waited.pop(call.whose, ())))
        self._by_asker.update(waited)

    def forget(self, asker: Any) -> None:
        self._by_asker.pop(asker, None)
