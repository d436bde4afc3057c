"""Turns: runs of ours that say which keys have runs to be started. They lie on one internal sub-route of each route.

Limited runs lie on a sub-route of their key, which nobody claims from but whoever has claimed a permit of the key. ::

    mail^.<digest>   limited runs of one key
    mail^~turns      permits of all keys of the route, and looks

A **permit** has the unique key ``<digest>/<i>``, with i below the count of the limit: so there are never more of them.
Who holds one of a limit of runs at once executes one run of the key at a time. A **look** has whoever claims it see
whether the key has runs that could start, and put permits for them; there may be any number of looks.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

import msgpack

from skunkqueue.clock import ticks
from skunkqueue.envelope import GATED, Envelope, Seal, open_body, pack_body, pack_head, peek_head
from skunkqueue.errors import Corrupt, PayloadError, StoreError, StoreFull, StoreRefused
from skunkqueue.ids import new_id
from skunkqueue.limits.limit import Terms
from skunkqueue.persistence import Persister
from skunkqueue.persistence.put import put
from skunkqueue.routes import TURNS, base_route, key_of_route

VERSION: Final = 1
SOON: Final = 0.002
"""Seconds. What is due later than this has a look of its own, due when it is."""
NOW: Final = "?"
"""How the unique key of a look ends that is to be done now."""
GRID: Final = 32
MOST_PERMITS: Final = 50
"""Most permits of a key that are put together with runs."""
CROWDED: Final = 1.0
"""Seconds for which a key counts as crowded after a permit of it was there already."""
MOST_CROWDED: Final = 10_000
FAR: Final = 60.0
"""Seconds. Up to that far ahead, the times of looks are rounded up by a part in GRID."""


class LimitKey(NamedTuple):
    """A key: its runs lie on ``keyed_routes(route, digest)`` of the queue."""

    queue: str
    route: str
    digest: str


class Turn(NamedTuple):
    """What a turn says. ``place`` is the number of the permit; of a look, it is minus the number of its runs."""

    key: LimitKey
    place: int
    terms: Terms

    @property
    def is_look(self) -> bool:
        return self.place < 0


_HEAD: Final = pack_head("turn", "", Seal())


def permit(key: LimitKey, index: int, terms: Terms, now: float) -> Envelope:
    """A permit of a key, to be put."""
    return _envelope(Turn(key, index, terms), f"{key.digest}/{index}", now, now)


def look(key: LimitKey, terms: Terms, now: float, due: float = 0.0, runs: int = 1) -> Envelope:
    """A look at a key, to be put, now or at a time, for so many runs."""
    turn = Turn(key, -runs, terms)
    return (
        _envelope(turn, f"{key.digest}@{due:.3f}", due, now)
        if due > now
        else _envelope(turn, f"{key.digest}{NOW}", now, now)
    )


def rounded(due: float, now: float) -> float:
    """A time to look at: up to a minute ahead it is rounded up a little, so that there are few such times."""
    if not 0 < due - now < FAR:
        return due
    step = 2.0 ** math.floor(math.log2(max((due - now) / GRID, 0.001)))
    return math.ceil(due / step) * step


def _envelope(turn: Turn, unique: str, due: float, now: float) -> Envelope:
    key, place, terms = turn
    call = msgpack.packb((VERSION, key.digest, place, tuple(terms)))
    body = pack_body(_HEAD, b"", b"m" + call)
    return Envelope(new_id(now), key.queue, key.route + TURNS, due, body, None, unique, 0.0)


def is_turn(route: str) -> bool:
    return route.endswith(TURNS)


def read(envelope: Envelope) -> Turn:
    """The turn that a run holds. Raises Corrupt."""
    call = open_body(envelope.body).call
    try:
        version, digest, place, terms = msgpack.unpackb(call[1:], use_list=False)
        if version > VERSION:
            raise ValueError(f"version {version}, this reads {VERSION}")
        count, per, burst = terms
        key = LimitKey(envelope.queue, base_route(envelope.route), str(digest))
        return Turn(key, int(place), Terms(int(count), float(per), int(burst)))
    except Exception as error:
        raise Corrupt(f"the turn cannot be read ({type(error).__name__}: {error})"[:300]) from error


# -- of runs ---------------------------------------------------------------------------------------------------------


def key_of(envelope: Envelope) -> LimitKey | None:
    """The key of a limited run; None for any other."""
    digest = key_of_route(envelope.route)
    return LimitKey(envelope.queue, base_route(envelope.route), digest) if digest else None


def terms_of(envelope: Envelope) -> Terms | None:
    """The terms of a limited run; None where there are none, or where they cannot be read."""
    try:
        bound = peek_head(envelope.body).seal.bound
    except PayloadError:
        return None
    return None if bound is None else Terms(*bound)


def turns_for(envelopes: Iterable[Envelope], now: float) -> list[Envelope]:
    """What is to be put together with these runs, behind them, so that those with a limit are started.

    Permits; for what is due later, and where many permits are there or are needed, a look, which puts them.
    """
    found: dict[tuple[LimitKey, float], tuple[Terms, int]] = {}
    for envelope in envelopes:
        if "^" not in envelope.route or envelope.due == GATED:
            continue
        key, terms = key_of(envelope), terms_of(envelope)
        if key is not None and terms is not None:
            due = envelope.due if envelope.due > now + SOON else 0.0
            found[key, due] = terms, found.get((key, due), (terms, 0))[1] + 1
    looks: list[Envelope] = []
    rounds: list[list[tuple[LimitKey, int, Terms]]] = []
    for (key, due), (terms, runs) in found.items():
        number = min(runs, terms.permits)
        if due or number > MOST_PERMITS or (terms.permits > 1 and _crowded.is_so(key)):
            looks.append(look(key, terms, now, due, runs))
            continue
        first = random.randrange(terms.permits)  # noqa: S311 - no secret
        rounds += [[] for _ in range(number - len(rounds))]
        for n in range(number):
            rounds[n].append((key, (first + n) % terms.permits, terms))
    # Those of one key apart: who claims several at once can use one of each.
    return [permit(*each, now) for one in rounds for each in one] + looks


class _Crowded:
    """The keys of which a permit was there already, for some time: their runs are put with a look, in one call."""

    def __init__(self) -> None:
        self._until: dict[LimitKey, float] = {}

    def is_so(self, key: LimitKey) -> bool:
        return bool(self._until) and self._until.get(key, 0.0) > ticks()

    def note(self, key: LimitKey) -> None:
        if len(self._until) >= MOST_CROWDED:
            self._until.clear()
        self._until[key] = ticks() + CROWDED


_crowded: Final = _Crowded()


def put_with_turns(store: Persister, envelopes: Sequence[Envelope], now: float) -> list[str]:
    """``put``, together with what has limited runs among them started. Gives the ids of these."""
    turns = turns_for(envelopes, now)
    if not turns:
        return put(store, envelopes)
    try:
        ids = put(store, [*envelopes, *turns])
    except StoreFull:
        raise
    except StoreRefused:  # what the store took has to start
        with suppress(StoreError):
            _put_looks(store, turns, now)
        raise
    _put_looks(store, [turn for turn, id in zip(turns, ids[len(envelopes) :], strict=True) if id != turn.id], now)
    return ids[: len(envelopes)]


def put_turns(store: Persister, envelopes: Iterable[Envelope], now: float) -> None:
    """Have those of these runs started, when they are due, that have a limit and are there."""
    turns = turns_for(envelopes, now)
    if turns:
        ids = put(store, turns)
        _put_looks(store, [turn for turn, id in zip(turns, ids, strict=True) if id != turn.id], now)


def _put_looks(store: Persister, turns: Iterable[Envelope], now: float) -> None:
    """Have the keys of these permits looked at, which were there already: others may be missing.

    Who holds one that is there looks at its key when it goes, but that may be much later. If the store is full by now,
    or the sender dies before this is called, the runs are there all the same, and start then.
    """
    found = [read(turn) for turn in turns]
    missing = Counter([(turn.key, turn.terms) for turn in found if not turn.is_look and turn.terms.permits > 1])
    for key, _ in missing:
        _crowded.note(key)
    if missing:
        with suppress(StoreRefused):
            put(store, [look(key, terms, now, runs=number) for (key, terms), number in missing.items()])


def start_limited(store: Persister, ids: Sequence[str], now: float) -> None:
    """Have those of these runs started that have a limit: they have just become ripe."""
    if ids:
        put_turns(store, [record.envelope._replace(due=now) for record in store.get_brief(ids).values()], now)
