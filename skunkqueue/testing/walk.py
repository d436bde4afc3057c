"""The random walk: the same random verbs on a store and on the memory store, with all answers and records compared."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any, Final, NamedTuple, TypeVar

from skunkqueue.envelope import DAY, FINDABLE, Claim, Envelope, Exchange, Filter, Order, Outcome, Record, State, Want
from skunkqueue.persistence import Persister
from skunkqueue.routes import HIGH, LOW, address
from skunkqueue.testing.makers import EVERY_BYTE, NOW, UNICODE, id_at
from skunkqueue.testing.pair import Call, Pair

T = TypeVar("T")

QUEUES = ("demo", "demo:b")
ROUTES = ("c", "b:c", "c" + HIGH, "c" + LOW, "C", "c_d")
WORKERS = ("host-1", "host-2.a")
ALL = 100_000
FORGED = "forged"
OFTEN, SELDOM = 0.8, 0.1
LATER = (0.1, 0.1, 1, 1, 1, 1, 5, 5, 5, 5, 10, 10, 10, 15, 15.3, 61, 90.7, 3600)
"""Seconds by which time moves."""

WRITTEN: Final = ("body", "due", "keep", "route", "unique", "expires", "queue")
"""The fields in which two envelopes of one id may differ."""


def random_walk(store: Persister, *, seed: int, steps: int = 150) -> None:
    """Walk ``steps`` random verbs on an empty store and on the memory store.

    Raises AssertionError at the first difference, naming seed, step, verb and both answers. The same seed gives the
    same walk. Where the contract leaves a choice to the store, only what it promises is compared.
    """
    dice = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
    walk = SeededWalk(store, seed)
    for step in range(steps):
        walk.step = step
        walk.take(_any_of(walk.verbs(), dice), dice)
        walk.compare_all()


class Verb(NamedTuple):
    """How often a verb is walked, and the attribute of the walk that must not be empty before it."""

    often: int
    needs: str = ""
    optional: bool = False  # a store may be without it


class Walk(Pair):
    """Each verb with random arguments, on both stores.

    The smallest random numbers give the simplest choices, because Hypothesis shrinks towards them.
    """

    def __init__(self, store: Persister, *, name: str = "walk") -> None:
        super().__init__(store, name=name)
        self.dice: random.Random = random.Random(0)  # noqa: S311 - replaced at every step
        self.now: float = NOW
        self.number: int = 0
        self.sent: dict[str, Envelope] = {}
        self.puts: list[list[Envelope]] = []
        self.wants: list[list[Want]] = []
        self.claims: list[Claim] = []
        self.commits: list[list[tuple[Claim, Outcome]]] = []
        self.orders: dict[str, list[tuple[Order, Order]]] = {}  # as both stores gave them, to be named in seen

    def take(self, verb: Callable[[Walk], None], dice: random.Random) -> None:
        """Walk one verb, mostly after some time."""
        self.dice = dice
        if self.chance(0.6):
            self.now += self.dice.choice(LATER)
        verb(self)

    def verbs(self) -> dict[Callable[[Walk], None], int]:
        """The verbs that can be walked now, and how often each is."""
        return {verb: each.often for verb, each in VERBS.items() if self.can(verb)}

    def can(self, verb: Callable[[Walk], None]) -> bool:
        needs, optional = VERBS[verb].needs, VERBS[verb].optional
        there = not optional or all(hasattr(each, verb.__name__) for each in (self.model, self.store))
        return there and (not needs or bool(getattr(self, needs)))

    def chance(self, likely: float) -> bool:
        return self.dice.randrange(100) >= 100 * (1 - likely)

    def compare_all(self, free: Iterable[str] = ()) -> None:
        self.compare(self.sent, now=self.now, free=free)

    @property
    def ids(self) -> list[str]:
        return list(self.sent)

    @property
    def records(self) -> list[Record]:
        return list(self.model.get(self.sent).values())

    # the path of a job

    def put(self) -> None:
        batch = [self.envelope() for _ in range(self.dice.choice((1, 1, 2, 5)))]
        if self.chance(SELDOM):
            batch.append(self.another_of(self.dice.choice(batch)))
        self.put_all(batch)

    def put_again(self) -> None:
        self.put_all(self.dice.choice(self.puts[-4:]))

    def put_another(self) -> None:
        """A second envelope of an id, alone or among others: the first stands, whatever the state of its run."""
        near = self.ids if self.chance(0.5) else self.ids[-8:]
        others = [self.another_of(self.sent[id]) for id in self.some_of(near, (1, 1, 2))]
        self.put_all([*others, *(self.envelope() for _ in range(self.dice.choice((0, 0, 1))))])

    def put_all(self, batch: list[Envelope]) -> None:
        self.puts.append(batch)
        for envelope in batch:
            self.sent.setdefault(envelope.id, envelope)
        self.same(Call.to("put", batch))

    def envelope(self) -> Envelope:
        self.number += 1
        # Concurrent senders: ids of the same moment do not ascend.
        id = id_at(self.now, self.number + self.dice.choice((0, 10_000, 20_000)))
        due = self.dice.choice((0, 0, 0, -5, 0.3, 5, 10, 100)) + self.now
        if self.chance(0.3):
            due = 10.0 * (1 + due // 10)  # so that many are due at the same time, whenever they were put
        body = self.dice.choice((b"", b"body", EVERY_BYTE))
        keep = self.dice.choice((0.0, 0.0, 60.7, 3600.0, DAY))
        if self.chance(0.15):
            return Envelope(id, "demo", address(self.dice.choice(WORKERS)), due, body, keep=keep)
        expires = self.now + self.dice.choice((0, 10, 15.3, 50, 50, 5000)) if self.chance(0.4) else None
        unique = self.dice.choice(("user-7", "c/user-7", UNICODE)) if self.chance(0.3) else None
        return Envelope(
            id, self.dice.choice(QUEUES), self.dice.choice(ROUTES), due, body, expires, unique, keep
        )  # fmt: skip

    def another_of(self, first: Envelope) -> Envelope:
        """An envelope of the same id that differs from it."""
        second = self.envelope()._asdict()
        changed = self.some_of(WRITTEN, (1, 1, 2, len(WRITTEN)))
        if self.store.ids_per_queue:
            second["queue"] = first.queue
        return first._replace(**{name: second[name] for name in changed})

    def claim(self) -> None:
        self.take_runs(self.new_wants(), [])

    def claim_again(self) -> None:
        """Like a pool whose last reply was lost: the same wants, marked as repeated."""
        wants = self.dice.choice(self.wants[-3:])
        self.take_runs([each._replace(repeated=True) for each in wants], [])

    def exchange(self) -> None:
        self.take_runs(self.new_wants(), self.new_outcomes(), "exchange")

    def new_wants(self) -> list[Want]:
        wants = [self.want() for _ in range(self.dice.choice((1, 1, 1, 2, 2, 0)))]
        self.wants.append(wants)
        return wants

    def want(self) -> Want:
        self.number += 1
        routes = tuple(self.some_of(ROUTES, range(1, len(ROUTES) + 1)))
        worker = self.dice.choice(WORKERS)
        return Want(
            self.dice.choice(QUEUES), (address(worker), *routes), worker, f"token-{self.number}",
            self.dice.choice((1, 2, 3, 10, 0)),
        )  # fmt: skip

    def take_runs(self, wants: list[Want], outcomes: list[tuple[Claim, Outcome]], verb: str = "claim") -> None:
        until = self.now + self.dice.choice((5, 15.3, 30, 100, 100))
        held = {(r.id, r.token) for r in self.records if r.state == State.RUNNING}
        args = (wants,) if verb == "claim" else (outcomes, wants)
        wanted, got = self.ask(Call.to(verb, *args, now=self.now, until=until))
        if verb == "exchange":
            self.check(wanted.taken, got.taken, "taken: ")
            self.check_next(wanted, got, wants)
            wanted, got = wanted.claims, got.claims
        self.check(_held_sorted(wanted, held), _held_sorted(got, held), "claims: ")
        self.claims += wanted
        self.settle(wants, wanted)

    def check_next(self, wanted: Exchange, got: Exchange, wants: Sequence[Want]) -> None:
        """If a want was filled, any time up to now is right."""
        filled = bool(_filled(wants, wanted.claims))
        if not (filled and got.next_ripe is not None and got.next_ripe <= self.now):
            self.check(wanted.next_ripe, got.next_ripe, "next_ripe: ")

    def settle(self, wants: Sequence[Want], claims: Sequence[Claim]) -> None:
        """A filled want may have ended some, all or none of the expired runs it met: end all in both stores."""
        routes = {(each.queue, route) for each in _filled(wants, claims) for route in each.routes}
        free = [r.id for r in self.records if _expired(r, self.now) and _place(r) in routes]
        if free:
            self.compare_all(free)
            self.ask(Call.to("purge", now=self.now, limit=ALL))

    def extend(self) -> None:
        until = self.now + self.dice.choice((40, 15.3, 5, 0, -5))
        self.same(Call.to("extend", self.some_claims(), until=until))

    def commit(self) -> None:
        self.same(Call.to("commit", self.new_outcomes(), now=self.now))

    def commit_again(self) -> None:
        self.same(Call.to("commit", self.dice.choice(self.commits[-3:]), now=self.now))

    def new_outcomes(self) -> list[tuple[Claim, Outcome]]:
        outcomes = [(claim, self.outcome()) for claim in self.some_claims()]
        self.commits.append(outcomes)
        return outcomes

    def some_claims(self) -> list[Claim]:
        """Mostly recent ones, sometimes old ones, and now and then one with a token that was never given."""
        near = self.claims if self.chance(1 - OFTEN) else self.claims[-8:]
        some = self.some_of(near, (1, 2, 4))
        if some and self.chance(SELDOM):
            some[-1] = some[-1]._replace(token=FORGED)
        return some

    def outcome(self) -> Outcome:
        kind = self.dice.choice(("complete", "failed", "again", "untouched", "started", "progress"))
        if kind == "progress":
            return Outcome.at(self.dice.choice((0.0, 0.1, 1.0)), self.dice.choice(("", UNICODE)))
        written: dict[str, Any] = {"notes": self.dice.choice((None, None, b"", b"notes", EVERY_BYTE))}
        if kind in ("complete", "failed"):
            written["value"] = self.dice.choice((None, b"", b"value", EVERY_BYTE))
        if kind == "failed":
            written |= {"error": self.dice.choice(("", "ValueError: no", UNICODE))}
            written |= {"keep": self.dice.choice((None, 0.0, 7 * DAY))}
        if kind == "again":
            written |= {"error": self.dice.choice((None, "", UNICODE))}
            written |= {"due": self.dice.choice((None, self.now - 1, self.now, self.now + 7.7))}
        return Outcome(kind, **written)

    # the desk

    def cancel(self) -> None:
        self.same(Call.to("cancel", self.some_ids(), now=self.now))

    def reopen(self) -> None:
        # Of two with the same unique key in one call, the store may choose which is taken.
        badly = [r.id for r in self.records if r.state in (State.FAILED, State.CANCELLED)]
        for id in [*self.some_of(badly, (1, 2)), *self.some_ids()]:
            self.same(Call.to("reopen", [id], now=self.now))

    def promote(self) -> None:
        later = [r.id for r in self.records if r.state == State.QUEUED and r.ripe > self.now]
        self.same(Call.to("promote", [*self.some_of(later, (1, 2)), *self.some_ids()], now=self.now))

    def discard(self) -> None:
        over = [r.id for r in self.records if not r.open]
        self.same(Call.to("discard", [*self.some_of(over, (1, 2)), *self.some_ids()], now=self.now))

    def some_ids(self) -> list[str]:
        """Mostly recent ones, and one that never existed."""
        near = self.ids if self.chance(1 - OFTEN) else self.ids[-20:]
        return [*self.some_of(near, (1, 2, 5)), id_at(self.now, 0)]

    def some_of(self, things: Sequence[T], numbers: Sequence[int]) -> list[T]:
        left = list(things)
        number = min(len(left), self.dice.choice(numbers))
        return [left.pop(self.dice.randrange(len(left))) for _ in range(number)]

    def get(self) -> None:
        """Also by ``await_end``, without waiting for the end."""
        ids = self.some_ids()
        for verb in ("get", "get_brief", "open_of"):
            self.same(Call.to(verb, ids))
        self.same(Call.to("await_end", self.some_ids()[0], 0.0))

    def find(self) -> None:
        after = self.dice.choice(self.ids) if self.ids and self.chance(0.5) else None
        which = Filter(
            self.dice.choice((None, *QUEUES)),
            self.dice.choice((None, "c", "c", "C", "b:c", "c_d", "d", address(WORKERS[0]))),
            self.dice.choice((None, *FINDABLE)),
        )
        limit = self.dice.choice((1000, 3, 1))
        for verb in ("find", "find_brief"):
            self.same(Call.to(verb, which, now=self.now, after=after, limit=limit))

    # the workers

    def beat(self) -> None:
        worker = self.dice.choice(WORKERS)
        given = self.orders.get(worker, [])
        seen = [pair for pair in given if self.chance(0.6)]
        about = self.dice.choice(("", "about", UNICODE))
        until = self.now + self.dice.choice((10, 100, 5000, 50_000, 0, -1))
        wanted = self.model.beat(worker, about, seen=[order.id for order, _ in seen], until=until)
        got = self.answer(Call.to("beat", worker, about, seen=[order.id for _, order in seen], until=until))
        self.check([order.text for order in wanted], [order.text for order in got], "orders: ")
        self.orders[worker] = list(zip(wanted, got, strict=True))

    def tell(self) -> None:
        self.number += 1
        for worker in self.some_of(self.alive, (1,)):
            self.same(Call.to("tell", worker, f"order {self.number} {UNICODE}"))

    @property
    def alive(self) -> list[str]:
        """The workers that are alive. Nothing is promised about orders for others."""
        return sorted(self.model.workers(now=self.now))

    # housekeeping

    def purge(self) -> None:
        gone = len(WORKERS) - len(self.alive)
        wanted, got = self.ask(Call.to("purge", now=self.now, limit=ALL))
        if not wanted - gone <= got <= wanted + gone:  # a store may let heartbeats expire by themselves
            self.check(wanted, got)


VERBS: Final[dict[Callable[[Walk], None], Verb]] = {
    Walk.put: Verb(20),
    Walk.put_again: Verb(4, "puts"),
    Walk.put_another: Verb(6, "sent"),
    Walk.claim: Verb(12),
    Walk.claim_again: Verb(4, "wants"),
    Walk.exchange: Verb(14),
    Walk.extend: Verb(6, "claims"),
    Walk.commit: Verb(14, "claims"),
    Walk.commit_again: Verb(4, "commits"),
    Walk.cancel: Verb(5, "sent"),
    Walk.reopen: Verb(5, "sent"),
    Walk.promote: Verb(5, "sent", optional=True),
    Walk.discard: Verb(3, "sent"),
    Walk.get: Verb(2, "sent"),
    Walk.find: Verb(10),
    Walk.beat: Verb(10),
    Walk.tell: Verb(6, "alive"),
    Walk.purge: Verb(8),
}
"""Every verb of the contract, for the random walk; time moves between them."""


class SeededWalk(Walk):
    """A walk whose errors name its seed and the number of the step."""

    def __init__(self, store: Persister, seed: int) -> None:
        super().__init__(store, name=f"walk-{seed}")
        self.seed = seed
        self.step = 0

    def where(self) -> str:
        return f"seed {self.seed}, step {self.step}, {super().where()}"


def _any_of(verbs: dict[Callable[[Walk], None], int], dice: random.Random) -> Callable[[Walk], None]:
    return dice.choices(tuple(verbs), tuple(verbs.values()))[0]


def _held_sorted(claims: Iterable[Claim], held: set[tuple[str, str | None]]) -> list[Claim]:
    """The claims as given. Those that a token already held may come in any order, and are sorted by id."""
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
    """Open, past its ``expires``, and not leased."""
    expires = record.envelope.expires
    unleased = record.state == State.QUEUED or record.ripe <= now
    return record.open and expires is not None and expires <= now and unleased
