"""Keeps the schedules of a queue: claims those that are ripe, puts the runs of their ticks, gives them back; and gates.

Any number of pools may do this. A tick's run has a made id, so that a repeated step puts nothing new, and a schedule's
lease brings it back if its pool dies. Time is an argument.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from skunkqueue.envelope import Claim, Envelope, Outcome, Record, Want
from skunkqueue.errors import PayloadError, StoreFull, StoreRefused
from skunkqueue.gates.gate import GATES
from skunkqueue.gates.keeper import step_all as step_gates
from skunkqueue.ids import new_token
from skunkqueue.limits.turns import put_with_turns
from skunkqueue.persistence import Persister
from skunkqueue.schedules.definition import TICKS, Definition, pace_id, read
from skunkqueue.schedules.paused import SCHEDULE, Paused, paused, pauses
from skunkqueue.schedules.step import Memory, Step, remembered, step

PAGE: Final = 200
"""Schedules that are claimed at a time."""
TURNS: Final = 50
"""Most claims of one call of ``keep``; what is ripe then is left for the next."""
AGAIN: Final = 60.0
"""Seconds after which a schedule is looked at again that met an unforeseen error."""


class Kept(NamedTuple):
    """What ``keep`` did: how many runs it made or let go, when to look next (None: nothing is there), and the pauses.

    ``awaited``: runs that gates wait for, each with its gates, as far as they were looked at. ``gates``: how many.
    """

    made: int
    next: float | None
    pauses: Sequence[Paused]
    troubles: Sequence[str]
    awaited: Mapping[str, Sequence[str]]
    gates: int


class _Item(NamedTuple):
    """A schedule that was claimed, read."""

    claim: Claim
    definition: Definition
    memory: Memory


class Keeper:
    """Of one pool: ``worker`` is its name, ``routes`` are those that it serves, ``lease`` is in seconds."""

    def __init__(self, store: Persister, queue: str, routes: Sequence[str], worker: str, lease: float) -> None:
        self._store = store
        self._queue = queue
        self._routes = tuple(dict.fromkeys(route + kind for route in routes for kind in (TICKS, GATES)))
        self._worker = worker
        self._lease = lease
        self._troubles: list[str] = []
        self._awaited: dict[str, list[str]] = {}
        self._gates = 0
        self._now = 0.0

    def keep(self, now: float, known: Sequence[Paused] | None = None) -> Kept:
        """Make all ticks up to now, and open the gates that may open. ``known``: the pauses, if they are known.

        Raises StoreError if the store is away; then call it again.
        """
        self._troubles, self._awaited, self._gates, self._now = [], {}, 0, now
        found = pauses(self._store, self._queue, now=now) if known is None else known
        stopped = paused(found, SCHEDULE)
        outcomes: list[tuple[Claim, Outcome]] = []
        made, next = 0, None
        for _ in range(TURNS):
            want = Want(self._queue, self._routes, self._worker, new_token(), PAGE)
            result = self._store.exchange(outcomes, [want], now=now, until=now + self._lease)
            next = result.next_ripe
            if not result.claims:
                break
            outcomes, number = self._step_all(result.claims, now, stopped)
            made += number
        else:
            self._store.commit(outcomes, now=now)
            next = now
        return Kept(made, next, found, self._troubles, self._awaited, self._gates)

    def _step_all(
        self, claims: Sequence[Claim], now: float, stopped: Mapping[str, float | None]
    ) -> tuple[list[tuple[Claim, Outcome]], int]:
        """Make the ticks of these; gives the outcomes for their claims, and how many runs were made."""
        gates = [claim for claim in claims if claim.envelope.route.endswith(GATES)]
        outcomes, released = self._open(gates, now) if gates else ([], 0)
        if len(gates) == len(claims):
            return outcomes, released
        claims = [claim for claim in claims if not claim.envelope.route.endswith(GATES)]
        items = [item for claim in claims if (item := self._read(claim, now, outcomes)) is not None]
        records = self._records(items)
        planned: list[tuple[_Item, Step, list[Envelope]]] = []
        for item in items:
            with _Guard(self, item.claim, now, outcomes):
                decided = self._decide(item, records, now, item.definition.name in stopped)
                planned.append((item, decided, _envelopes(item, decided, now)))
        refused = self._put([envelope for _, _, envelopes in planned for envelope in envelopes])
        for item, decided, envelopes in planned:
            why = next((refused[envelope.id] for envelope in envelopes if envelope.id in refused), None)
            outcomes.append((item.claim, _outcome(item, decided, envelopes, why)))
        return outcomes, released + sum(len(envelopes) for _, _, envelopes in planned) - len(refused)

    def _open(self, claims: Sequence[Claim], now: float) -> tuple[list[tuple[Claim, Outcome]], int]:
        """Look at what these gates wait for."""
        stepped = step_gates(self._store, claims, now)
        for id, gates in stepped.awaited.items():
            self._awaited.setdefault(id, []).extend(gates)
        self._gates += len(claims)
        return stepped.outcomes, stepped.released

    def _read(self, claim: Claim, now: float, outcomes: list[tuple[Claim, Outcome]]) -> _Item | None:
        with _Guard(self, claim, now, outcomes):
            definition = read(claim.envelope)
            return _Item(claim, definition, remembered(definition, claim.notes))
        return None

    def _records(self, items: Sequence[_Item]) -> dict[str, Record]:
        """The last runs of these, and the runs that ask when to run next."""
        ids = [item.memory.last for item in items if item.memory.last]
        ids += [pace_id(item.memory.last) for item in items if item.memory.last and item.definition.pace]
        return self._store.get(ids) if ids else {}

    def _decide(self, item: _Item, records: Mapping[str, Record], now: float, is_paused: bool) -> Step:
        last = item.memory.last
        pace = records.get(pace_id(last)) if last else None
        return step(item.definition, item.memory, now=now, last=records.get(last), pace=pace, is_paused=is_paused)

    def _put(self, envelopes: list[Envelope]) -> Mapping[str, str]:
        """Put them; gives the reasons for those that the store does not take."""
        try:
            put_with_turns(self._store, envelopes, self._now) if envelopes else None
        except StoreFull:
            raise
        except StoreRefused as error:
            return error.refused
        return {}

    def note(self, sentence: str) -> None:
        """Note what an operator should know."""
        self._troubles.append(sentence)


class _Guard:
    """Ends a schedule that cannot be read, and puts off one that met an unforeseen error: no other is held up."""

    def __init__(self, keeper: Keeper, claim: Claim, now: float, outcomes: list[tuple[Claim, Outcome]]) -> None:
        self._keeper = keeper
        self._claim = claim
        self._now = now
        self._outcomes = outcomes

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, Exception):
            return False
        text = f"{type(error).__name__}: {error}"[:500]
        self._keeper.note(f"schedule {self._claim.id} makes no tick: {text}")
        if isinstance(error, PayloadError):
            self._outcomes.append((self._claim, Outcome.failed(text)))
        else:
            self._outcomes.append((self._claim, Outcome.again(due=self._now + AGAIN, error=text)))
        return True


def _envelopes(item: _Item, decided: Step, now: float) -> list[Envelope]:
    """The runs to put for a step."""
    found = [envelope for tick in decided.ticks for envelope in item.definition.ticks(tick)]
    if decided.asks:
        found.append(item.definition.asking(item.memory.last, now))
    return found


def _outcome(item: _Item, decided: Step, envelopes: Sequence[Envelope], refused: str | None) -> Outcome:
    """What becomes of a schedule after a step."""
    if refused is not None:
        return Outcome.failed(f"a tick cannot be put: {refused}"[:500])
    memory = decided.memory
    if decided.ticks:
        memory = memory._replace(last=envelopes[-len(item.definition.routes)].id)
    if decided.ended:
        return Outcome.failed(decided.ended, notes=memory.packed())
    return Outcome.again(due=decided.look_at, notes=memory.packed())
