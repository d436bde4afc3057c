"""Looks at keys in the store: puts permits where runs could start, lets permits go that have nothing to do.

A permit leaves by ending, and only then is its key looked at once more: what was put before it had ended met its unique
key, and is found by that look; what is put later has a permit of its own.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import Final, NamedTuple

from skunkqueue.envelope import Claim, Envelope, Outcome, Want
from skunkqueue.ids import new_token
from skunkqueue.limits.limit import Terms
from skunkqueue.limits.turns import NOW, LimitKey, Turn, look, permit, read, rounded, terms_of
from skunkqueue.persistence import Persister
from skunkqueue.persistence.put import put
from skunkqueue.routes import base_route, key_of_route, keyed_routes

WORKER: Final = "turns"
MORE: Final = 4
"""How many times as many permits are tried, where those tried before were all there."""
AT_ONCE: Final = 400
"""Permits that are put in one call, about."""
SWEPT: Final = 100
"""Most keys for which one sweep puts permits."""


class HeldTurn(NamedTuple):
    """A turn that was claimed."""

    claim: Claim
    turn: Turn


class Wanted(NamedTuple):
    """Permits of these terms are wanted, for so many runs."""

    terms: Terms
    runs: int = 1

    def more(self, runs: int) -> Wanted:
        return self._replace(runs=self.runs + runs)


def put_permits(store: Persister, wanted: Mapping[LimitKey, Wanted], now: float) -> set[LimitKey]:
    """Put permits for each of these keys, at least one that was not there; gives those that have all they may have."""
    places = {key: range(min(each.runs, each.terms.permits)) for key, each in wanted.items()}
    full: set[LimitKey] = set()
    while places:
        permits = [permit(key, place, wanted[key].terms, now) for key, some in places.items() for place in some]
        new = {read(envelope).key for envelope in _put(store, permits)}
        there = {key for key in places if key not in new}
        full |= {key for key in there if places[key].stop >= wanted[key].terms.permits}
        places = {key: _behind(places[key], wanted[key].terms.permits) for key in there - full}
    return full


def _behind(places: range, most: int) -> range:
    return range(places.stop, min(places.stop + MORE * len(places), most))


def _put(store: Persister, permits: Sequence[Envelope]) -> list[Envelope]:
    """Put them; gives those that were not there."""
    new: list[Envelope] = []
    for start in range(0, len(permits), AT_ONCE):
        some = permits[start : start + AT_ONCE]
        new += [envelope for envelope, id in zip(some, put(store, some), strict=True) if id == envelope.id]
    return new


def ripe_of(store: Persister, keys: Sequence[LimitKey], now: float, until: float = inf) -> dict[LimitKey, float]:
    """When the first open run of each key is ripe, for those that have one: of a running one, when its lease ends.

    Keys of which nothing ripens up to ``until`` are left out.
    """
    ripe = None if not keys else store.exchange((), [asking(keys)], now=now, until=now).next_ripe
    if ripe is None or ripe > until:
        return {}
    if len(keys) == 1:
        return {keys[0]: ripe}
    middle = len(keys) // 2
    return {**ripe_of(store, keys[:middle], now, until), **ripe_of(store, keys[middle:], now, until)}


def put_more(store: Persister, held: Mapping[LimitKey, Terms], now: float) -> set[LimitKey]:
    """Put a permit more for those of these keys that have further runs to be started; gives those that have all."""
    ripe = ripe_of(store, list(held), now, now)
    return put_permits(store, {key: Wanted(held[key]) for key in ripe}, now) if ripe else set()


def put_looks(store: Persister, due: Mapping[tuple[LimitKey, float], Terms], now: float) -> None:
    """Have these keys looked at when they are due."""
    _put(store, [look(key, terms, now, rounded(at, now)) for (key, at), terms in due.items()])


def asking(keys: Sequence[LimitKey]) -> Want:
    """Asks when something of these keys ripens, and for nothing more."""
    routes = dict.fromkeys(route for key in keys for route in keyed_routes(key.route, key.digest))
    return Want(keys[0].queue, tuple(routes), WORKER, new_token(), 0)


def look_at(store: Persister, looks: Sequence[HeldTurn], now: float) -> int:
    """Do these looks; gives for how many keys there may be runs to start."""
    all_of: dict[LimitKey, Wanted] = {}
    at_once: set[LimitKey] = set()
    for claim, (key, place, terms) in looks:
        all_of[key] = all_of.get(key, Wanted(terms, 0)).more(-place)
        if (claim.envelope.unique or "").endswith(NOW):
            at_once.add(key)
    ripe = ripe_of(store, [key for key in all_of if key not in at_once], now)
    wanted = {key: each for key, each in all_of.items() if key in at_once or ripe.get(key, now + 1) <= now}
    put_permits(store, wanted, now)
    outcomes = []
    for held in looks:
        key = held.turn.key
        again = key in ripe and key not in wanted
        outcomes.append((held.claim, Outcome.again(due=ripe[key]) if again else Outcome.complete(None)))
    store.commit(outcomes, now=now)
    return len(wanted)


def let_go(store: Persister, permits: Sequence[HeldTurn], now: float) -> int:
    """End these permits, and look once more at their keys; gives for how many there are runs to start."""
    terms = {held.turn.key: held.turn.terms for held in permits}
    keys = list(terms)
    outcomes = [(held.claim, Outcome.complete(None)) for held in permits]
    store.commit(outcomes, now=now)
    # Only then: in one call, a store may have looked before the permits had ended, and not see what was put between.
    ripe = store.exchange((), [asking(keys)], now=now, until=now).next_ripe
    if ripe is None:
        return 0
    each = ripe_of(store, keys, now) if len(keys) > 1 else {keys[0]: ripe}
    wanted = {key: Wanted(terms[key]) for key, at in each.items() if at <= now}
    put_permits(store, wanted, now)
    _put(store, [look(key, terms[key], now, rounded(at, now)) for key, at in each.items() if at > now])
    return len(wanted)


# -- the sweep -------------------------------------------------------------------------------------------------------


def waiting(store: Persister, queue: str, routes: Iterable[str]) -> dict[str, int]:
    """How many runs wait on each sub-route of a key on these routes, where none is running.

    Where one is, who executes it looks when it has ended, and to claim what waits might change its order.
    """
    wanted = set(routes)
    queued: dict[str, int] = {}
    running = set()
    for (its, route, state), number in store.count().items():
        if its == queue and key_of_route(route) and base_route(route) in wanted:
            if state == "queued":
                queued[route] = number
            elif state == "running":
                running.add(route)
    return {route: number for route, number in queued.items() if route not in running}


def sweep(store: Persister, queue: str, routes: Iterable[str], before: Mapping[str, int], now: float) -> dict[str, int]:
    """Put permits where runs lie as they did at the last sweep: who was to do it may have died before.

    Gives what the next sweep is given as ``before``.
    """
    found = waiting(store, queue, routes)
    still = [route for route, number in found.items() if before.get(route) == number]
    still = random.sample(still, min(SWEPT, len(still)))  # some may have been full for long
    wanted: dict[LimitKey, Wanted] = {}
    wants = [Want(queue, (route,), WORKER, new_token(), 1) for route in still]
    claims = store.claim(wants, now=now, until=now + 15.0) if wants else []
    for claim in claims:
        terms = terms_of(claim.envelope)
        if terms is not None:
            route = claim.envelope.route
            wanted[LimitKey(queue, base_route(route), key_of_route(route))] = Wanted(terms, found[route])
    if claims:
        store.commit([(claim, Outcome.untouched()) for claim in claims], now=now)
    put_permits(store, wanted, now)
    return found
