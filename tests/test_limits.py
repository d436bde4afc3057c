"""Limits in the store: permits, looks and sweeps, on every store with a handed clock."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest

from skunkqueue import Limit, SkunkQueue, StoreFull, StoreRefused, WrongCall
from skunkqueue.envelope import Envelope, Filter, Outcome, Seal, State, Want, pack_body, pack_head
from skunkqueue.ids import new_id, new_token
from skunkqueue.limits import turns
from skunkqueue.limits.credit import Credit, credit_of
from skunkqueue.limits.limit import FAIR, Terms
from skunkqueue.limits.looking import HeldTurn, Wanted, let_go, look_at, put_permits, ripe_of, sweep
from skunkqueue.limits.turns import LimitKey, is_turn, look, put_with_turns, read
from skunkqueue.options import Options
from skunkqueue.routes import TURNS, keyed, keyed_routes, with_priorities

START = datetime(2027, 3, 1, 12, tzinfo=UTC).timestamp()
FIVE = Terms(5)


class World:
    """A store with limited runs on it, and the time there."""

    def __init__(self, store):
        self.store = store
        self.now = START

    def fire(self, key="a", terms=FIVE, *, route="mail", due=None, number=1):
        envelopes = [self.run(key, terms, route, self.now if due is None else due) for _ in range(number)]
        return put_with_turns(self.store, envelopes, self.now)

    def run(self, key, terms, route, due):
        body = pack_body(pack_head("mail", "", Seal(bound=terms)), b"", b"m\x92\x90\x80")
        return Envelope(new_id(self.now), "demo", keyed(route, key), due, body)

    def claim(self, *routes, limit=100, lease=15.0):
        want = Want("demo", routes, "w", new_token(), limit)
        return self.store.claim([want], now=self.now, until=self.now + lease)

    def turns(self, **how):
        return [HeldTurn(claim, read(claim.envelope)) for claim in self.claim("mail" + TURNS, **how)]

    def places(self):
        """The permits and looks that are open, by key: the places of permits."""
        found = {}
        for record in self.store.find(Filter("demo", "mail"), now=self.now, limit=1000):
            if is_turn(record.envelope.route) and record.open:
                turn = read(record.envelope)
                found.setdefault(turn.key.digest, []).append(turn.place)
        return {key: sorted(places) for key, places in found.items()}

    def end(self, claims):
        self.store.commit([(claim, Outcome.complete(None)) for claim in claims], now=self.now)


@pytest.fixture
def world(store, monkeypatch):
    monkeypatch.setattr(turns, "_crowded", turns._Crowded())
    return World(store)


KEY = LimitKey("demo", "mail", "a")
ROUTES = keyed_routes("mail", "a")


# -- where runs lie --------------------------------------------------------------------------------------------------


def test_limited_runs_are_found_and_counted_on_their_route_but_not_claimed_from_it(world):
    ids = world.fire(number=2) + world.fire("b", route="mail^high")
    (other,) = world.store.put([world.run("a", None, "mail", START)._replace(route="mailbox")])

    assert world.claim(*with_priorities("mail")) == []
    found = [r.id for r in world.store.find(Filter("demo", "mail"), now=START) if not is_turn(r.envelope.route)]
    assert sorted(found) == sorted(ids)
    found = world.store.find(Filter("demo", "mail", State.QUEUED), now=START)
    assert sorted(r.id for r in found if not is_turn(r.envelope.route)) == sorted(ids)
    assert other not in [record.id for record in world.store.find(Filter("demo", "mail"), now=START)]
    assert sorted(c.id for c in world.claim(*ROUTES)) == sorted(ids[:2])


def test_among_the_runs_of_a_key_those_of_a_higher_priority_come_first(world):
    low, normal, high = (world.fire(route=route)[0] for route in ("mail^low", "mail", "mail^high"))

    assert [claim.id for claim in world.claim(*ROUTES)] == [high, normal, low]


# -- permits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("terms", [Terms(1), Terms(100, 60.0, 1), FAIR])
def test_a_key_with_one_permit_gets_it_with_its_first_run_and_none_with_more(world, terms):
    world.fire(terms=terms)
    world.fire(terms=terms, number=3)
    assert world.places() == {"a": [0]}

    (permit,) = world.turns()
    assert permit.turn == (KEY, 0, terms)
    world.fire(terms=terms)
    assert world.places() == {"a": [0]}


def test_runs_fired_together_get_as_many_permits_as_the_limit_allows(world):
    world.fire(number=3)
    world.fire("b", number=9)

    places = world.places()
    assert len(set(places["a"]) & set(range(5))) == 3
    assert places["b"] == [0, 1, 2, 3, 4]


def test_permits_of_one_key_lie_apart_for_who_claims_several(world):
    runs = [world.run(key, FIVE, "mail", START) for key in "abc" for _ in range(9)]
    put_with_turns(world.store, runs, START)

    assert [held.turn.key.digest for held in world.turns(limit=6)] == [*"abcabc"]


def test_a_run_whose_permit_is_there_already_gets_a_look_as_others_may_be_missing(world):
    world.fire(terms=Terms(2), number=2)
    assert world.places() == {"a": [0, 1]}
    world.fire(terms=Terms(2))
    assert world.places() == {"a": [-1, 0, 1]}

    held = [held for held in world.turns() if not held.turn.is_look]
    world.end(world.claim(*ROUTES))
    let_go(world.store, held, START)
    world.fire(terms=Terms(2), number=2)  # it is known as crowded for a second
    assert world.places()["a"][0] < 0


def test_of_more_runs_than_permits_are_put_at_once_there_is_a_look(world):
    world.fire(terms=Terms(1000), number=60)
    assert world.places() == {"a": [-60]}

    assert look_at(world.store, world.turns(), START) == 1

    assert world.places() == {"a": [*range(60)]}


def test_a_run_that_was_stored_is_not_said_to_be_refused_where_the_store_is_full_a_moment_later(world, monkeypatch):
    world.fire(terms=Terms(2), number=2)
    put = world.store.put

    def fill_up(envelopes, **how):
        if all(is_turn(envelope.route) for envelope in envelopes):
            raise StoreFull("the disk is full")
        return put(envelopes, **how)

    monkeypatch.setattr(world.store, "put", fill_up)

    (id,) = world.fire(terms=Terms(2))

    assert world.store.get([id])[id].open
    assert world.places() == {"a": [0, 1]}


def test_a_run_whose_sender_died_before_it_was_looked_at_starts_when_another_of_its_key_has_ended(world):
    world.fire(terms=Terms(2))
    (held,) = world.turns()
    world.end(world.claim(*ROUTES))
    run = world.run("a", Terms(2), "mail", START)
    world.store.put([run])

    assert let_go(world.store, [held], START) == 1

    assert [claim.id for claim in world.claim(*ROUTES)] == [run.id]


def test_what_the_store_took_starts_where_it_refused_another(world, monkeypatch):
    ids = world.fire(terms=Terms(2))
    world.end(world.claim(*ROUTES))
    (permit,) = world.turns()
    good, bad = (world.run("a", Terms(2), "mail", START) for _ in range(2))
    put = world.store.put

    def refuse(envelopes, **how):
        if bad.id in [envelope.id for envelope in envelopes]:
            raise StoreRefused("too strange")
        return put(envelopes, **how)

    monkeypatch.setattr(world.store, "put", refuse)
    with pytest.raises(StoreRefused):
        put_with_turns(world.store, [good, bad], START)

    looks = [held for held in world.turns() if held.turn.is_look]
    assert look_at(world.store, looks, START) == 1
    assert world.places() == {"a": [0, 1]}
    assert [claim.id for claim in world.claim(*ROUTES)] == [good.id] != ids
    assert permit.turn.place in (0, 1)


def test_while_permits_are_held_each_run_gets_another_until_there_are_as_many_as_allowed(world):
    for number in range(1, 8):
        world.fire()
        looks = [held for held in world.turns() if held.turn.is_look]
        look_at(world.store, looks, START)
        assert len(world.places()["a"]) >= min(number, 5)
    assert world.places() == {"a": [0, 1, 2, 3, 4]}


def test_many_permits_are_put_and_never_more_than_allowed(world):
    wanted = {KEY: Wanted(Terms(1000), 3), KEY._replace(digest="b"): Wanted(Terms(2), 50)}
    assert put_permits(world.store, wanted, START) == set()
    assert world.places() == {"a": [0, 1, 2], "b": [0, 1]}

    full = put_permits(world.store, wanted, START)

    assert full == {KEY._replace(digest="b")}
    places = world.places()
    assert len(places["a"]) > 3
    assert places["b"] == [0, 1]


def test_a_permit_that_leaves_finds_what_came_before_it_had_left(world):
    world.fire(terms=Terms(1))
    (permit,) = world.turns()
    world.end(world.claim(*ROUTES))
    assert world.claim(*ROUTES) == []
    world.fire(terms=Terms(1))  # meets the permit, which is about to leave

    assert let_go(world.store, [permit], START) == 1
    assert world.places() == {"a": [0]}

    (permit,) = world.turns()
    world.end(world.claim(*ROUTES))
    assert let_go(world.store, [permit], START) == 0
    assert world.places() == {}


def test_a_permit_that_leaves_while_another_run_goes_on_leaves_a_look_for_when_that_lease_ends(world):
    world.fire(terms=FAIR)
    (permit,) = world.turns()
    world.claim(*ROUTES)

    let_go(world.store, [permit], START)

    assert world.places() == {"a": [-1]}
    world.now += 14.9
    assert world.turns() == []
    world.now += 0.6
    looks = world.turns()
    assert look_at(world.store, looks, world.now) == 1
    assert world.places() == {"a": [0]}
    (again,) = world.claim(*ROUTES)
    assert again.lapses == 1


def test_a_look_goes_on_looking_while_leases_are_extended_and_then_ends(world):
    world.fire(terms=FAIR)
    (permit,) = world.turns()
    claims = world.claim(*ROUTES)
    let_go(world.store, [permit], START)
    world.now += 15.5
    world.store.extend(claims, until=world.now + 10)

    assert look_at(world.store, world.turns(), world.now) == 0
    assert world.turns() == []
    world.end(claims)
    world.now += 10.5
    assert look_at(world.store, world.turns(), world.now) == 0
    assert world.places() == {}


def test_runs_for_later_have_looks_of_their_own_and_hold_up_none_that_come_meanwhile(world):
    world.fire(terms=Terms(1), due=START + 100)
    assert world.turns() == []

    world.fire(terms=Terms(1))
    (permit,) = world.turns()
    world.end(world.claim(*ROUTES))
    let_go(world.store, [permit], START)
    world.now += 100.1
    assert look_at(world.store, world.turns(), world.now) == 1
    assert [len(world.claim(*ROUTES)), world.places()] == [1, {"a": [0]}]


def test_ripe_of_many_keys_tells_each_by_itself(world):
    keys = [KEY._replace(digest=f"k{n}") for n in range(7)]
    world.fire("k2")
    world.fire("k5", due=START + 9)

    assert ripe_of(world.store, keys, START) == {keys[2]: START, keys[5]: START + 9}


def test_a_sweep_puts_permits_where_runs_lie_as_before_and_touches_nothing_else(world):
    ids = world.store.put([world.run("a", FIVE, "mail", START) for _ in range(2)])
    assert world.places() == {}

    before = sweep(world.store, "demo", ["mail"], {}, START)
    assert before == {"mail^.a": 2}
    assert world.places() == {}
    sweep(world.store, "demo", ["other"], before, START)
    assert world.places() == {}
    sweep(world.store, "demo", ["mail"], before, START)

    assert world.places() == {"a": [0, 1]}
    records = world.store.get(ids)
    assert {(record.state, record.lapses) for record in records.values()} == {(State.QUEUED, 0)}


def test_nothing_is_left_when_all_is_done_and_purged(world):
    for n in range(20):
        world.fire(f"k{n}", Terms(1))
    world.fire("many", number=5)
    while held := world.turns():
        looks = [each for each in held if each.turn.is_look]
        permits = [each for each in held if not each.turn.is_look]
        look_at(world.store, looks, world.now)
        for each in permits:
            world.end(world.claim(*keyed_routes("mail", each.turn.key.digest)))
        if permits:
            let_go(world.store, permits, world.now)
    assert world.places() == {}

    while world.store.purge(now=START + 1e9, limit=1000):
        pass

    assert world.store.count() == {}


# -- how many may start ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "terms", [Terms(100, 60.0, 1), Terms(7, 1.0, 1), Terms(1, 10.0, 1), Terms(1000, 1.0, 1), Terms(50, 5.0, 10)]
)
@pytest.mark.parametrize("seed", range(3))
def test_a_rate_is_never_more_than_the_limit_and_not_less_than_nine_tenths_of_it(terms, seed):
    chance = random.Random(seed)
    late = min(0.25, 0.045 * terms.per)
    now, notes, starts = START, b"", []
    end = START + 20 * terms.per
    while now < end:
        credit = credit_of(terms, notes, now)
        used = credit.whole if chance.random() < 0.9 else chance.randrange(credit.whole + 1)
        starts += [now + chance.uniform(0, late) for _ in range(used)]
        credit = credit.less(used)
        notes = credit.packed()
        now = max(now, credit.when(1.0)) + chance.uniform(0, late / 4)

    starts.sort()
    most = first = 0
    for n, at in enumerate(starts):
        while starts[first] <= at - terms.per:
            first += 1
        most = max(most, n + 1 - first)
    assert most <= terms.most + terms.burst - 1
    assert len(starts) >= 0.9 * 20 * terms.most


def test_after_a_lull_as_many_start_at_once_as_burst_says():
    credit = Credit(0.0, START, Terms(100, 60.0, 7))
    assert credit.then(START + 600).whole == 7
    assert credit.then(START + 600).less(7).whole == 0
    assert credit_of(Terms(100, 60.0, 7), b"damaged", START).whole == 7


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Limit(0), "a limit is a whole number from 1 up; got 0"),
        (lambda: Limit(-1), "a limit is a whole number from 1 up"),
        (lambda: Limit(True), "a limit is a whole number from 1 up"),
        (lambda: Limit(2.5), "a limit is a whole number from 1 up"),
        (lambda: Limit("5"), "a limit is a whole number from 1 up"),
        (lambda: Limit(20_000), "at most 10,000"),
        (lambda: Limit(5, key=7), "key of a limit is a printable text, or a function"),
        (lambda: Limit(5, key=""), "key of a limit is a printable text, or a function"),
        (lambda: Limit(5, per=-1), "per of a limit is a number of seconds from 0 up"),
        (lambda: Limit(5, per=0), "per of a limit is more than 0 seconds"),
        (lambda: Limit(5, per="soon"), "per of a limit is a number of seconds"),
        (lambda: Limit(5, burst=2), "burst is for a limit with per"),
        (lambda: Limit(5, per=1, burst=6), "burst of a limit is at most its count, 5"),
        (lambda: Limit(5, per=1, burst=0), "burst of a limit is a whole number"),
        (lambda: Options().changed({"limit": 5}), "limit is a Limit, such as"),
        (lambda: Options().changed({"fair_by": "tenant"}), "fair_by is a function"),
        (lambda: Options().changed({"fair_by": len, "limit": Limit(5)}), "give one of them"),
    ],
)
def test_a_wrong_limit_is_refused_with_a_sentence(make, says):
    with pytest.raises(WrongCall, match=says):
        make()


def test_a_key_that_is_no_key_is_refused_where_it_is_fired():
    queue = SkunkQueue("demo", "memory://no-key")
    job = queue.event(len, name="count", limit=Limit(5, key=lambda text: [text]))

    with pytest.raises(WrongCall, match="the key of a limit, made of a call of count, is a printable text or a whole"):
        job.fire("a")
    assert queue.count()["queued"] == 0


def test_a_broadcast_has_no_limit():
    queue = SkunkQueue("demo", "memory://no-broadcast", queue_type="broadcast")

    with pytest.raises(WrongCall, match="is of a broadcast queue, which gives each worker a run of its own"):
        queue.event(limit=Limit(5))(len)


def test_limits_say_what_they_are():
    assert repr(Limit(5)) == "Limit(5)"
    assert repr(Limit(100, per="1m", key="openai")) == "Limit(100, key='openai', per=60, burst=1)"
    assert Limit(5, key="a") == Limit(5, key="a") != Limit(6, key="a")
    assert len({Limit(5), Limit(5), Limit(5, per=1)}) == 2


def test_look_times_of_the_same_moment_are_one(store):
    due = START + 5.0
    assert len({*store.put([look(KEY, FIVE, START, due), look(KEY, FIVE, START, due)])}) == 1


def test_what_is_put_while_a_permit_leaves_is_started_though_a_store_looks_first(world, monkeypatch):
    """As of a moment before the outcomes of the same call, where the store does not mind what was put since."""
    one = Terms(1)
    world.fire(terms=one)
    (held,) = world.turns()
    world.end(world.claim(*ROUTES))
    kind, late = type(world.store), []
    exchange = kind.exchange

    def looking_first(store, outcomes, wants, **times):
        before = exchange(store, (), wants, **times)
        if not late:
            late.append(1)
            world.fire(terms=one)
        return exchange(store, outcomes, (), **times)._replace(claims=before.claims, next_ripe=before.next_ripe)

    monkeypatch.setattr(kind, "exchange", looking_first)
    let_go(world.store, [held], START)
    monkeypatch.undo()

    assert world.places() == {"a": [0]}
