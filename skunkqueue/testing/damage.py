"""Random damage to any byte of any field of any record, while a store is in use. It may cost that run, but no other.

The caller says where the store keeps its records, as ``Field`` values that read and write them without the store::

    damaged_walk(store, lambda ids: [Field(id, "body", read, write), ...], seed=7)
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from skunkqueue.envelope import DAY, FINDABLE, Claim, Envelope, Filter, Outcome, Want
from skunkqueue.persistence import Persister
from skunkqueue.routes import HIGH
from skunkqueue.testing.makers import NOW, id_at

ROUTES: Final = ("foo", "foo" + HIGH, "bar")
ROUNDS: Final = 12
"""Number of leases after the last verb within which all runs end."""

FAR: Final = 1e300
"""A time when no run is kept any longer, whatever a damaged record says."""


class Field(NamedTuple):
    """One field of a run's record, and functions that read and write it without the store. Absent, it reads as None."""

    id: str
    name: str
    read: Callable[[], bytes | None]
    write: Callable[[bytes | None], object]


Fields = Callable[[Sequence[str]], list[Field]]
"""Returns the fields of these runs."""


def damaged_walk(store: Persister, fields: Fields, *, seed: int, steps: int = 60, most: int = 2) -> None:
    """Walk random verbs on an empty store, and damage up to ``most`` runs meanwhile.

    Raises AssertionError, with seed and damage, if a verb fails, if an undamaged run does not end, if a damaged one
    neither ends nor can be cancelled, or if any run is left when all has been purged.
    """
    walk = DamagedWalk(store, fields, random.Random(seed), most)  # noqa: S311 - to be repeated, not to be secret
    try:
        walk.walk(steps)
        walk.finish()
    except Exception as error:
        raise AssertionError(
            f"seed {seed}, {walk.doing}, after {walk.told}: {type(error).__name__}: {error}"
        ) from error


class DamagedWalk:
    """One walk. No verb may raise, whatever is damaged."""

    store: Persister
    fields: Fields
    dice: random.Random
    most: int

    def __init__(self, store: Persister, fields: Fields, dice: random.Random, most: int) -> None:
        self.store, self.fields, self.dice, self.most = store, fields, dice, most
        self.now: float = NOW
        self.number: int = 0
        self.sent: dict[str, Envelope] = {}
        self.held: dict[str, Claim] = {}
        self.victims: set[str] = set()
        self.told: list[str] = []
        self.doing: str = ""

    def walk(self, steps: int) -> None:
        verbs = (
            self.put, self.put, self.put, self.claim, self.claim, self.commit, self.commit, self.extend, self.cancel,
            self.promote, self.discard, self.reopen, self.look, self.purge, self.damage,
        )  # fmt: skip
        for _ in range(steps):
            self.now += self.dice.choice((0.0, 0.1, 1.0, 5.0, 16.0))
            verb = self.dice.choice(verbs)
            self.doing = verb.__name__
            verb()

    # verbs

    def put(self) -> None:
        batch = []
        for _ in range(self.dice.choice((1, 1, 2, 5, 20))):
            self.number += 1
            body = b"b" * self.dice.choice((0, 10, 2000))
            expires = self.now + 400 if self.dice.random() < 0.3 else None
            unique = f"key-{self.number}" if self.dice.random() < 0.3 else None
            due = self.now + self.dice.choice((0.0, 0.0, 0.0, 20.0))
            route = self.dice.choice(ROUTES)
            id = id_at(self.now, self.number)
            batch.append(Envelope(id, "demo", route, due, body, expires, unique, self.dice.choice((0.0, DAY))))
        self.sent.update((each.id, each) for each in batch)
        assert self.store.put(batch) == [each.id for each in batch]

    def wants(self, *, repeated: bool = False) -> list[Want]:
        self.number += 1
        return [Want("demo", ROUTES, "worker-1", f"token-{self.number}", self.dice.choice((1, 5, 100)), repeated)]

    def claim(self) -> None:
        wants, until = self.wants(), self.now + 15.3
        claims = self.store.claim(wants, now=self.now, until=until)
        if self.dice.random() < 0.2:
            again = [each._replace(repeated=True) for each in wants]
            claims += self.store.claim(again, now=self.now, until=until)
        self.held.update((claim.id, claim) for claim in claims)

    def outcome(self) -> Outcome:
        return self.dice.choice(
            (
                Outcome.complete(b"value"), Outcome.complete(b"v" * 3000), Outcome.failed("no", value=b"trace"),
                Outcome.again(due=self.now + 1, error="no"), Outcome.untouched(), Outcome.at(0.5, "note"),
                Outcome("started", notes=b"notes"),
            )
        )  # fmt: skip

    def some(self, things: Sequence[Any]) -> list[Any]:
        return self.dice.sample(list(things), min(len(things), self.dice.choice((1, 2, 5, 20))))

    def commit(self) -> None:
        outcomes = [(claim, self.outcome()) for claim in self.some(list(self.held.values()))]
        if self.dice.random() < 0.5:
            self.store.commit(outcomes, now=self.now)
        else:
            done = self.store.exchange(outcomes, self.wants(), now=self.now, until=self.now + 15.3)
            self.held.update((claim.id, claim) for claim in done.claims)

    def extend(self) -> None:
        self.store.extend(self.some(list(self.held.values())), until=self.now + 15.3)

    def cancel(self) -> None:
        self.store.cancel(self.some(list(self.sent)), now=self.now)

    def promote(self) -> None:
        self.store.promote(self.some(list(self.sent)), now=self.now)

    def discard(self) -> None:
        self.store.discard(self.some(list(self.sent)), now=self.now)

    def reopen(self) -> None:
        self.store.reopen(self.some(list(self.sent)), now=self.now)

    def look(self) -> None:
        ids = self.some(list(self.sent))
        assert set(self.store.get(ids)) <= set(ids)
        assert set(self.store.open_of(ids)) <= set(self.store.get_brief(ids)) <= set(ids)
        self.store.count()
        which = Filter(
            self.dice.choice((None, "demo")), self.dice.choice((None, "foo")), self.dice.choice((None, *FINDABLE))
        )
        limit = self.dice.choice((1, 1000))
        self.store.find(which, now=self.now, limit=limit)
        self.store.find_brief(which, now=self.now, limit=limit, values=10)

    def purge(self) -> None:
        self.store.purge(now=self.now)

    # damage

    def damage(self) -> None:
        there = [id for id in self.sent if not self.victims or len(self.victims) < self.most or id in self.victims]
        found = [field for field in self.fields(self.some(there)) if field.read() is not None]
        if not found:
            return
        field = self.dice.choice(found)
        before = field.read()
        assert before is not None
        if field.id not in self.victims and len(self.victims) >= self.most:
            return
        after = self.damaged(before)
        self.victims.add(field.id)
        self.told.append(
            f"{field.name} of {field.id}: {before[:60]!r} became {after if after is None else after[:60]!r}"
        )
        field.write(after)

    def damaged(self, data: bytes) -> bytes | None:
        """The bytes with one bit flipped, some cut off, some added, or replaced; or None, which removes the field."""
        at = self.dice.randrange(len(data)) if data else 0
        junk = self.dice.randbytes(self.dice.choice((1, 3, 20)))
        digit = str(self.dice.randrange(10)).encode()
        flipped = data[:at] + bytes([data[at] ^ 1 << self.dice.randrange(8)]) + data[at + 1 :] if data else junk
        other = data[:at] + digit + data[at + 1 :]
        return self.dice.choice(
            (flipped, flipped, data[:at], data[at:], junk + data, data + junk, junk, b"", other, None)
        )

    # the end

    def finish(self) -> None:
        """Check that undamaged runs end, that damaged ones can be cancelled, and that a purge leaves nothing."""
        self.doing = "finish"
        for _ in range(ROUNDS):
            self.now += 30
            claims = self.store.claim(
                [want._replace(limit=1000) for want in self.wants()], now=self.now, until=self.now + 15.3
            )
            self.store.commit([(claim, Outcome.complete(b"")) for claim in claims], now=self.now)
        others = self.sent.keys() - self.victims
        left = [id for id, record in self.store.get(sorted(others)).items() if record.open]
        assert left == [], f"runs that were not damaged have not ended: {left}"
        self.store.cancel(self.sent, now=self.now)
        open_still = [id for id, record in self.store.get(list(self.sent)).items() if record.open]
        assert open_still == [], f"damaged runs cannot be cancelled: {open_still}"
        for _ in range(5):
            self.store.purge(now=FAR, limit=100_000)
        assert list(self.store.get(list(self.sent))) == [], "runs are left when all is purged"
        assert self.store.find(Filter(), now=self.now) == [], "runs are found when all is purged"
        kept = self.fields(list(self.sent))
        assert [field.name for field in kept if field.read() is not None] == [], "fields are left when all is purged"
