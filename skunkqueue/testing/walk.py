"""The random walk: the same random verbs on a store and on the one in memory, every answer and record compared."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from skunkqueue.envelope import (
    DAY,
    HIGH,
    LOW,
    Claim,
    Envelope,
    Exchange,
    Filter,
    Order,
    Outcome,
    Record,
    State,
    Want,
    address,
)
from skunkqueue.persistence import Persister
from skunkqueue.persistence.memory import MemoryPersister
from skunkqueue.testing.makers import EVERY_BYTE, NOW, UNICODE, id_at

QUEUES = ("demo", "demo:b")
ROUTES = ("c", "b:c", "c" + HIGH, "c" + LOW, "C", "c_d")
WORKERS = ("host-1", "host-2.a")
ALL = 100_000
FORGED = "forged"


def random_walk(store: Persister, *, seed: int, steps: int = 150) -> None:
    """Walk ``steps`` random verbs on an empty store and on the one in memory.

    Raises AssertionError at the first difference, naming seed, step, verb and both answers. The same seed gives the
    same walk. Where the contract leaves a store free, only what it promises is compared.
    """
    walk = _Walk(store, seed)
    for step in range(steps):
        walk.step(step)


class _Call(NamedTuple):
    """A verb with its arguments, to be asked of both stores."""

    verb: str
    args: tuple[Any, ...]
    named: dict[str, Any]

    def of(self, store: Persister) -> Any:
        return getattr(store, self.verb)(*self.args, **self.named)

    def __str__(self) -> str:
        words = [*map(repr, self.args), *(f"{name}={value!r}" for name, value in self.named.items())]
        return f"{self.verb}({', '.join(words)})"


def _call(verb: str, *args: Any, **named: Any) -> _Call:
    return _Call(verb, args, named)


class _Walk:
    def __init__(self, store: Persister, seed: int) -> None:
        self.store = store
        self.model = MemoryPersister(f"walk-{seed}")
        self.seed = seed
        self.dice = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
        self.now = NOW
        self.number = 0
        self.last: object = "the start"
        self.where = 0
        self.ids: list[str] = []
        self.puts: list[list[Envelope]] = []
        self.wants: list[list[Want]] = []
        self.claims: list[Claim] = []
        self.commits: list[list[tuple[Claim, Outcome]]] = []
        self.orders: dict[str, list[tuple[Order, Order]]] = {}  # as both stores gave them, to be named in seen

    def step(self, where: int) -> None:
        self.where = where
        if self.dice.random() < 0.6:
            self.now += self.dice.choice((0.1, 0.1, 1, 1, 1, 1, 5, 5, 5, 5, 10, 10, 10, 15, 15.3, 61, 90.7, 3600))
        verb = self.dice.choices(tuple(_VERBS), tuple(_VERBS.values()))[0]
        verb(self)
        self.compare()

    # asking both

    def ask(self, call: _Call) -> tuple[Any, Any]:
        """The answers of the model and of the store."""
        return call.of(self.model), self.answer(call)

    def answer(self, call: _Call) -> Any:
        self.last = call
        try:
            return call.of(self.store)
        except Exception as error:
            raise self.difference(f"  raised {error!r}") from error

    def same(self, call: _Call) -> Any:
        """The answer of both, which must be the same."""
        wanted, got = self.ask(call)
        self.check(wanted, got)
        return wanted

    def check(self, wanted: object, got: object, what: str = "") -> None:
        if not _equal(wanted, got):
            raise self.difference(f"  {what}wanted {wanted!r}\n  {what}got    {got!r}")

    def difference(self, how: str) -> AssertionError:
        return AssertionError(f"seed {self.seed}, step {self.where}, after {self.last}:\n{how}")

    def compare(self, free: Iterable[str] = ()) -> None:
        """Every record and every count, but for the runs that a store was free to end."""
        left = set(free)
        ids = [i for i in self.ids if i not in left]
        wanted, got = self.model.get(ids), self.store.get(ids)
        for id in ids:
            self.check(wanted.get(id), got.get(id), f"record {id}: ")
        if not left:
            self.check(self.model.count(), self.store.count(), "count: ")
            self.check(self.model.workers(now=self.now), self.store.workers(now=self.now), "workers: ")

    # the path of a job

    def put(self) -> None:
        batch = [self.envelope() for _ in range(self.dice.choice((1, 1, 2, 5)))]
        self.puts.append(batch)
        self.ids += [envelope.id for envelope in batch]
        self.same(_call("put", batch))

    def put_again(self) -> None:
        if self.puts:
            self.same(_call("put", self.dice.choice(self.puts[-4:])))

    def envelope(self) -> Envelope:
        self.number += 1
        # Concurrent senders: ids of the same moment do not ascend.
        id = id_at(self.now, self.number + self.dice.choice((0, 10_000, 20_000)))
        due = self.now + self.dice.choice((0, 0, 0, -5, 0.3, 5, 10, 100))
        body = self.dice.choice((b"", b"body", EVERY_BYTE))
        keep = self.dice.choice((0.0, 0.0, 60.7, 3600.0, DAY))
        if self.dice.random() < 0.15:
            return Envelope(id, "demo", address(self.dice.choice(WORKERS)), due, body, keep=keep)
        expires = self.now + self.dice.choice((0, 10, 15.3, 50, 50, 5000)) if self.dice.random() < 0.4 else None
        unique = self.dice.choice(("user-7", "c/user-7", UNICODE)) if self.dice.random() < 0.3 else None
        return Envelope(
            id, self.dice.choice(QUEUES), self.dice.choice(ROUTES), due, body, expires, unique, keep
        )  # fmt: skip

    def claim(self) -> None:
        self.take(self.new_wants(), [])

    def claim_again(self) -> None:
        """As a pool does whose last reply was lost: the same wants, said to be repeated."""
        if self.wants:
            wants = self.dice.choice(self.wants[-3:])
            self.take([each._replace(repeated=True) for each in wants], [])

    def exchange(self) -> None:
        self.take(self.new_wants(), self.new_outcomes(), "exchange")

    def new_wants(self) -> list[Want]:
        wants = [self.want() for _ in range(self.dice.choice((0, 1, 1, 1, 2, 2)))]
        self.wants.append(wants)
        return wants

    def want(self) -> Want:
        self.number += 1
        routes = tuple(self.dice.sample(ROUTES, self.dice.randint(1, len(ROUTES))))
        worker = self.dice.choice(WORKERS)
        return Want(
            self.dice.choice(QUEUES), (address(worker), *routes), worker, f"token-{self.number}",
            self.dice.choice((0, 1, 2, 3, 10)),
        )  # fmt: skip

    def take(self, wants: list[Want], outcomes: list[tuple[Claim, Outcome]], verb: str = "claim") -> None:
        until = self.now + self.dice.choice((5, 15.3, 30, 100, 100))
        held = {(r.id, r.token) for r in self.model.get(self.ids).values() if r.state == State.RUNNING}
        args = (wants,) if verb == "claim" else (outcomes, wants)
        wanted, got = self.ask(_call(verb, *args, now=self.now, until=until))
        if verb == "exchange":
            self.check(wanted.taken, got.taken, "taken: ")
            self.check_next(wanted, got, wants)
            wanted, got = wanted.claims, got.claims
        self.check(_held_sorted(wanted, held), _held_sorted(got, held), "claims: ")
        self.claims += wanted
        self.settle(wants, wanted)

    def check_next(self, wanted: Exchange, got: Exchange, wants: Sequence[Want]) -> None:
        """Where a want was filled, any time up to now will do."""
        filled = bool(_filled(wants, wanted.claims))
        if not (filled and got.next_ripe is not None and got.next_ripe <= self.now):
            self.check(wanted.next_ripe, got.next_ripe, "next_ripe: ")

    def settle(self, wants: Sequence[Want], claims: Sequence[Claim]) -> None:
        """A claim that was filled may have ended more, or fewer, of the expired runs it met: end them all in both."""
        routes = {(each.queue, route) for each in _filled(wants, claims) for route in each.routes}
        free = [r.id for r in self.model.get(self.ids).values() if _expired(r, self.now) and _place(r) in routes]
        if free:
            self.compare(free)
            self.ask(_call("purge", now=self.now, limit=ALL))

    def extend(self) -> None:
        self.same(_call("extend", self.some_claims(), until=self.now + self.dice.choice((-5, 0, 5, 15.3, 40))))

    def commit(self) -> None:
        outcomes = self.new_outcomes()
        self.same(_call("commit", outcomes, now=self.now))

    def commit_again(self) -> None:
        if self.commits:
            self.same(_call("commit", self.dice.choice(self.commits[-3:]), now=self.now))

    def new_outcomes(self) -> list[tuple[Claim, Outcome]]:
        outcomes = [(claim, self.outcome()) for claim in self.some_claims()]
        self.commits.append(outcomes)
        return outcomes

    def some_claims(self) -> list[Claim]:
        """Mostly fresh ones, stale ones too, and now and then one with a token that was never given."""
        near = self.claims[-8:] if self.dice.random() < 0.8 else self.claims
        some = self.dice.sample(near, min(len(near), self.dice.choice((1, 2, 4))))
        return [c._replace(token=FORGED) if self.dice.random() < 0.05 else c for c in some]

    def outcome(self) -> Outcome:
        value = self.dice.choice((None, b"", b"value", EVERY_BYTE))
        notes = self.dice.choice((None, None, b"", b"notes", EVERY_BYTE))
        error = self.dice.choice(("", "ValueError: no", UNICODE))
        due = self.dice.choice((None, self.now - 1, self.now, self.now + 7.7))
        return self.dice.choice(
            (
                Outcome.complete(value, notes=notes),
                Outcome.failed(error, value=value, notes=notes, keep=self.dice.choice((None, 0.0, 7 * DAY))),
                Outcome.again(due=due, error=self.dice.choice((None, error)), notes=notes),
                Outcome.untouched(notes=notes),
                Outcome.started(notes=notes),
                Outcome.at(self.dice.choice((0.0, 0.1, 1.0)), self.dice.choice(("", UNICODE))),
            )
        )

    # the desk

    def cancel(self) -> None:
        self.same(_call("cancel", self.some_ids(), now=self.now))

    def reopen(self) -> None:
        # Of two with the same unique key in one call, which is taken is the store's to choose.
        badly = [r.id for r in self.model.get(self.ids).values() if r.state in (State.FAILED, State.CANCELLED)]
        for id in [*self.some_ids(), *self.dice.sample(badly, min(len(badly), 2))]:
            self.same(_call("reopen", [id], now=self.now))

    def some_ids(self) -> list[str]:
        near = self.ids[-20:] if self.dice.random() < 0.8 else self.ids
        return [*self.dice.sample(near, min(len(near), self.dice.choice((1, 2, 5)))), id_at(self.now, 0)]

    def find(self) -> None:
        after = self.dice.choice(self.ids) if self.ids and self.dice.random() < 0.5 else None
        which = Filter(
            self.dice.choice((None, *QUEUES)),
            self.dice.choice((None, "c", "c", "C", "b:c", "c_d", "d", address(WORKERS[0]))),
            self.dice.choice((None, *State)),
        )
        self.same(_call("find", which, now=self.now, after=after, limit=self.dice.choice((1, 3, 1000))))

    # the workers

    def beat(self) -> None:
        worker = self.dice.choice(WORKERS)
        given = self.orders.get(worker, [])
        seen = [pair for pair in given if self.dice.random() < 0.6]
        about = self.dice.choice(("", "about", UNICODE))
        until = self.now + self.dice.choice((-1, 0, 10, 100, 5000, 50_000))
        wanted = self.model.beat(worker, about, seen=[order.id for order, _ in seen], until=until)
        got = self.answer(_call("beat", worker, about, seen=[order.id for _, order in seen], until=until))
        self.check([order.text for order in wanted], [order.text for order in got], "orders: ")
        self.orders[worker] = list(zip(wanted, got, strict=True))

    def tell(self) -> None:
        alive = sorted(self.model.workers(now=self.now))
        if alive:  # what becomes of an order for a worker that is not there, nobody promised
            self.number += 1
            self.same(_call("tell", self.dice.choice(alive), f"order {self.number} {UNICODE}"))

    # housekeeping

    def purge(self) -> None:
        gone = len(WORKERS) - len(self.model.workers(now=self.now))
        wanted, got = self.ask(_call("purge", now=self.now, limit=ALL))
        if not wanted - gone <= got <= wanted + gone:  # a store may let beats end by themselves
            self.check(wanted, got)


def _equal(wanted: object, got: object) -> bool:
    """Equal, and in records and claims of the very same types: 1.0 is no count, a memoryview no body."""
    exact = not isinstance(wanted, (list, tuple)) or repr(wanted) == repr(got)
    return wanted == got and type(wanted) is type(got) and exact


_VERBS: dict[Callable[[_Walk], None], int] = {
    _Walk.put: 20,
    _Walk.put_again: 4,
    _Walk.claim: 12,
    _Walk.claim_again: 4,
    _Walk.exchange: 14,
    _Walk.extend: 6,
    _Walk.commit: 14,
    _Walk.commit_again: 4,
    _Walk.cancel: 5,
    _Walk.reopen: 5,
    _Walk.find: 10,
    _Walk.beat: 10,
    _Walk.tell: 6,
    _Walk.purge: 8,
}


def _held_sorted(claims: Iterable[Claim], held: set[tuple[str, str | None]]) -> list[Claim]:
    """The claims as given, but those that a token held already, which may come in any order, sorted by id."""
    ordered: list[Claim] = []
    for _, group in groupby(claims, key=lambda claim: claim.token):
        given = list(group)
        first = [claim for claim in given if (claim.id, claim.token) in held]
        ordered += [*sorted(given[: len(first)], key=lambda claim: claim.id), *given[len(first) :]]
    return ordered


def _filled(wants: Sequence[Want], claims: Sequence[Claim]) -> list[Want]:
    return [each for each in wants if sum(claim.token == each.token for claim in claims) >= each.limit]


def _place(record: Record) -> tuple[str, str]:
    return record.envelope.queue, record.envelope.route


def _expired(record: Record, now: float) -> bool:
    """Open, past its ``expires``, and with nobody's lease on it."""
    expires = record.envelope.expires
    unleased = record.state == State.QUEUED or record.ripe <= now
    return record.open and expires is not None and expires <= now and unleased
