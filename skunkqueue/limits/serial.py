"""Takes one turn of limited runs for who executes runs itself, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from skunkqueue.clock import Clock
from skunkqueue.envelope import Claim, Outcome, Want
from skunkqueue.errors import PayloadError
from skunkqueue.ids import new_token
from skunkqueue.limits.credit import Credit, credit_of
from skunkqueue.limits.looking import HeldTurn, let_go, look_at
from skunkqueue.limits.turns import read
from skunkqueue.persistence import Persister
from skunkqueue.routes import TURNS, keyed_routes


class Setting(Protocol):
    """What it must know of a pool's settings."""

    @property
    def queue(self) -> str: ...
    @property
    def lease(self) -> float: ...


class TakenTurn(NamedTuple):
    """A turn that was taken, if there was one: the run that it gives, and the permit to execute that under."""

    is_there: bool
    run: Claim | None = None
    permit: Claim | None = None


@contextmanager
def taking(
    store: Persister, settings: Setting, worker: str, routes: Sequence[str], clock: Clock
) -> Iterator[TakenTurn]:
    """Take a turn of these routes; at the end it goes to the next."""
    now = clock.now()
    want = Want(settings.queue, tuple(route + TURNS for route in routes), worker, new_token(), 1)
    claim = next(iter(store.claim([want], now=now, until=now + settings.lease)), None)
    if claim is None:
        yield TakenTurn(False)
        return
    try:
        held = HeldTurn(claim, read(claim.envelope))
    except PayloadError as error:
        store.commit([(claim, Outcome.failed(str(error)))], now=now)
        yield TakenTurn(True)
        return
    if held.turn.is_look:
        look_at(store, [held], now)
        yield TakenTurn(True)
        return
    terms = held.turn.terms
    credit = credit_of(terms, claim.notes, now) if terms.is_rate else None
    run = _run_of(store, held, credit, worker, now, settings.lease)
    yield TakenTurn(True, run, claim)
    _pass_on(store, held, credit if credit is None or run is None else credit.less(1), run is not None, clock.now())


def _run_of(
    store: Persister, held: HeldTurn, credit: Credit | None, worker: str, now: float, lease: float
) -> Claim | None:
    """The first run of the key, if it may start."""
    noted: list[tuple[Claim, Outcome]] = []
    if credit is not None:
        if credit.whole < 1:
            return None
        noted = [(held.claim, Outcome.started(notes=credit.less(1).packed()))]
    key = held.turn.key
    want = Want(key.queue, keyed_routes(key.route, key.digest), worker, new_token(), 1)
    result = store.exchange(noted, [want], now=now, until=now + lease)
    return next(iter(result.claims), None)


def _pass_on(store: Persister, held: HeldTurn, credit: Credit | None, has_run: bool, now: float) -> None:
    """Give the permit back, or let it go where its key has nothing more."""
    credit = None if credit is None else credit.then(now)
    if not has_run and (credit is None or credit.is_full):
        let_go(store, [held], now)
        return
    due, notes = now, None
    if credit is not None:
        notes = credit.packed()
        due = credit.when(float(credit.terms.burst) if credit.whole >= 1 and not has_run else 1.0)
    store.commit([(held.claim, Outcome.again(due=max(due, now), notes=notes))], now=now)
