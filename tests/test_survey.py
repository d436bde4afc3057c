"""What a store tells of its routes, on every store: how much waits and for how long, and who works on it."""

from __future__ import annotations

import json

import pytest

from skunkqueue.envelope import DAY, Envelope, Filter, Outcome, Record
from skunkqueue.metrics import survey as module
from skunkqueue.metrics.survey import RouteState, first_ripe, survey, workers
from skunkqueue.notes import NONE, encode_notes
from skunkqueue.persistence import Persister
from skunkqueue.testing.makers import LEASE, NOW, id_at, sealed, take, take_one


def surveyed(store: Persister, *, now: float = NOW, queue: str | None = None) -> dict[str, RouteState]:
    found = survey(store, now=now, queue=queue)
    return {f"{each.queue} {each.route}": each for each in found}


def test_each_route_tells_what_waits_what_runs_and_what_has_ended(store: Persister) -> None:
    store.put([sealed(number, due=NOW - 30 + number) for number in range(10)])
    store.put([sealed(20, route="foo^high", due=NOW - 40), sealed(21, due=NOW + 60), sealed(22, route="bar")])
    first, second, *_ = take(store, "A", limit=3)
    store.commit([(first, Outcome.complete(b"")), (second, Outcome.failed("no"))], now=NOW)
    store.cancel([sealed(9).id], now=NOW)

    foo, bar = surveyed(store)["demo foo"], surveyed(store)["demo bar"]

    assert (foo.queued, foo.scheduled, foo.running) == (7, 1, 1)
    assert (foo.succeeded, foo.failed, foo.cancelled) == (1, 1, 1)
    assert foo.oldest == pytest.approx(40)
    assert (bar.queued, bar.scheduled, bar.oldest) == (1, 0, 0)
    assert foo.row()["oldest_seconds"] == pytest.approx(40)
    assert "sub_routes" not in foo.row()


def test_looking_takes_nothing_and_changes_nothing(store: Persister) -> None:
    store.put([sealed(number, due=NOW + number - 3) for number in range(6)])
    before = everything(store)

    surveyed(store)

    assert everything(store) == before
    assert len(take(store)) == 4


def everything(store: Persister) -> list[Record]:
    return store.find(Filter(), now=NOW, limit=100)


def test_what_is_due_later_does_not_wait(store: Persister) -> None:
    store.put([sealed(1, due=NOW + 60), sealed(2, due=NOW + 90)])

    foo = surveyed(store)["demo foo"]
    later = surveyed(store, now=NOW + 75)["demo foo"]

    assert (foo.queued, foo.scheduled, foo.oldest) == (0, 2, 0)
    assert (later.queued, later.scheduled, later.oldest) == (1, 1, pytest.approx(15))


def test_a_run_whose_pool_has_vanished_waits_since_its_lease_ended(store: Persister) -> None:
    store.put([sealed(1)])
    take_one(store)

    held = surveyed(store)["demo foo"]
    lapsed = surveyed(store, now=NOW + LEASE + 5)["demo foo"]

    assert (held.running, held.queued, held.oldest) == (1, 0, 0)
    assert (lapsed.running, lapsed.oldest) == (1, pytest.approx(5))


def test_workers_are_counted_on_their_routes_also_where_nothing_was_fired(store: Persister) -> None:
    def about(route: str, queue: str = "demo", **more: object) -> str:
        return json.dumps({"queue": queue, "routes": [route], **more})

    for name, told in {
        "one": about("foo", running=["1"]),
        "two": about("foo", running=[]),
        "three": about("new"),
        "elsewhere": about("foo", "other"),
        "damaged": "{",
        "strange": '{"queue": 3, "routes": 4}',
    }.items():
        store.beat(name, told, until=NOW + 60)

    found = surveyed(store, queue="demo")

    assert {name: (each.workers, each.busy) for name, each in found.items()} == {"demo foo": (2, 1), "demo new": (1, 0)}
    assert len(workers(store, now=NOW)) == 4
    assert surveyed(store, now=NOW + 61) == {}


def test_what_was_broadcast_is_one_route(store: Persister) -> None:
    store.put([sealed(number, route=f"@worker-{number}", due=NOW - number) for number in range(1, 4)])

    assert {name: (each.queued, each.oldest) for name, each in surveyed(store).items()} == {
        "demo @": (3, pytest.approx(3))
    }


def test_schedules_and_pauses_are_no_runs_that_wait(store: Persister) -> None:
    store.put([sealed(1, route="~pauses"), sealed(2, route="~ticks")])

    assert surveyed(store) == {}


def test_a_full_route_is_not_listed(store: Persister, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FEW", 20)
    ids = [id_at(NOW, number) for number in range(30)]
    store.put([Envelope(id, "demo", "foo", NOW + (60 if n else -5), b"", None, None, DAY) for n, id in enumerate(ids)])

    def find(*_: object, **__: object) -> None:
        raise AssertionError("a full route was listed")

    monkeypatch.setattr(store, "find", find)
    monkeypatch.setattr(store, "find_brief", find)
    foo = surveyed(store)["demo foo"]

    assert (foo.queued, foo.scheduled, foo.oldest) == (30, None, pytest.approx(5))
    assert surveyed(store, now=NOW - 6)["demo foo"].scheduled == 30  # none is ripe yet, so all of them


def test_what_no_worker_can_have_waits_since_one_met_it_however_often_it_is_put_back(store: Persister) -> None:
    """Else nobody would be told of the commonest mistake: workers in another folder."""
    store.put([sealed(1, due=NOW - 80), sealed(2, due=NOW + 60)])
    (claim,) = take(store)
    notes = encode_notes(NONE._replace(unknown=NOW - 70))
    again = Outcome.again(due=NOW + 5, error="there is no module shop", notes=notes)
    store.commit([(claim, again)], now=NOW)

    foo = surveyed(store)["demo foo"]

    assert (foo.queued, foo.unknown, foo.scheduled, foo.oldest) == (1, 1, 1, pytest.approx(70))
    assert foo.why == "there is no module shop"


def test_an_empty_route_has_no_first(store: Persister) -> None:
    assert first_ripe(store, "demo", ["foo"], now=NOW) is None
    assert surveyed(store) == {}
