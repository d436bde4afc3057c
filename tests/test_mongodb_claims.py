"""How MongoDB's claims find their runs: in order, with few trips, and without sorting."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

pytest.importorskip("pymongo")

from mongo_servers import client_of, fresh_url
from pymongo import monitoring

from skunkqueue.envelope import Filter, Outcome
from skunkqueue.persistence.mongodb import MongoPersister, open_url
from skunkqueue.persistence.mongodb.documents import shelf_of
from skunkqueue.persistence.mongodb.probe import SORTS, Features, _stages, features_of, has_transactions
from skunkqueue.persistence.mongodb.windows import Windows
from skunkqueue.routes import HIGH, LOW
from skunkqueue.testing import random_walk
from skunkqueue.testing.makers import LATE, NOW, sealed, want

CLAIMERS = 8
SHELF = shelf_of("demo", "foo")


class Commands(monitoring.CommandListener):
    """The commands that pymongo sends, by name, of all clients of this process."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.lock = threading.Lock()

    def started(self, event: Any) -> None:
        if event.command_name not in ("hello", "isMaster", "ismaster"):
            self.sent.append(event.command_name)

    def succeeded(self, event: Any) -> None: ...

    def failed(self, event: Any) -> None: ...


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    listener = Commands()
    monitoring.register(listener)
    yield listener
    monitoring._LISTENERS.command_listeners.remove(listener)


@pytest.fixture
def url(shared_mongodb: str) -> Iterator[str]:
    made = fresh_url(shared_mongodb)
    yield made
    with client_of(made) as client:
        client.drop_database(client.get_default_database())


@pytest.fixture
def store(url: str, commands: Commands) -> Iterator[MongoPersister]:
    opened = open_url(url)
    opened.warnings()  # asks what the server can do
    yield opened
    opened.close()


@pytest.fixture
def open_handle(url: str) -> Iterator[Callable[[], MongoPersister]]:
    """One more handle to the store, at every call, as of other processes; all are closed afterwards."""
    with ExitStack() as opened:
        yield lambda: opened.enter_context(closing(open_url(url)))


# -- trips -----------------------------------------------------------------------------------------------------------


def test_a_claim_of_many_is_two_trips_and_a_commit_of_many_is_one(store: MongoPersister, commands: Commands) -> None:
    store._features = Features(sorts_by_index=True, streams=False)
    commands.sent.clear()
    store.put([sealed(n) for n in range(100)])
    put, commands.sent[:] = list(commands.sent), []
    wants = [want("A", "foo" + HIGH, "foo", "foo" + LOW, limit=30), want("B", "foo" + HIGH, "foo", limit=30)]

    claims = store.claim(wants, now=NOW, until=LATE)

    claimed, commands.sent[:] = list(commands.sent), []
    assert len(claims) == 60
    store.exchange([(claim, Outcome.complete(b"")) for claim in claims], [want("C", limit=5)], now=NOW, until=LATE)
    assert put == ["insert"]
    assert claimed == ["find", "update"]
    assert sorted(commands.sent) == ["find", "update", "update"]  # the commit beside the claim


def test_what_is_found_comes_in_one_trip_however_many_it_is(store: MongoPersister, commands: Commands) -> None:
    """A server that is not told how many are wanted gives 101 of them at first."""
    store._features = Features(sorts_by_index=True, streams=False)
    ids = store.put([sealed(n) for n in range(300)])
    commands.sent.clear()

    store.get(ids)
    store.find(Filter(), now=NOW, limit=300)
    store.claim([want("A", limit=300)], now=NOW, until=LATE)
    store.claim([want("A", limit=300, repeated=True)], now=NOW, until=LATE)
    store.cancel(ids, now=NOW)
    store.reopen(ids, now=NOW)
    store.put([sealed(n) for n in range(300)])

    assert "getMore" not in commands.sent
    assert "killCursors" not in commands.sent


def test_firing_one_is_one_trip(store: MongoPersister, commands: Commands) -> None:
    commands.sent.clear()
    store.put([sealed()])

    assert commands.sent == ["insert"]


def test_an_exchange_that_finds_nothing_asks_twice(store: MongoPersister, commands: Commands) -> None:
    store._features = Features(sorts_by_index=True, streams=False)
    commands.sent.clear()
    store.exchange([], [want("A", "@w", "foo" + HIGH, "foo", "foo" + LOW)], now=NOW, until=LATE)

    assert commands.sent == ["find", "find"]  # what is ripe, and what ripens next


# -- order -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_the_random_walk_finds_no_difference_where_the_server_sorts(store: MongoPersister, seed: int) -> None:
    store._features = Features(sorts_by_index=False, streams=False)

    random_walk(store, seed=seed)


class Shelf:
    """Runs as (ripe, id), asked as a server is; ``looked`` says how many each question had to sort."""

    def __init__(self, ripe: list[float]) -> None:
        self.runs = sorted((each, f"{number:028x}") for number, each in enumerate(ripe))
        self.looked: list[int] = []

    def ask(self, where: dict[str, Any], limit: int, passed: int) -> list[dict[str, Any]]:
        ripe, bound = where.get("ripe", {"$lte": 1e300}), where.get("_id", {"$lte": "g"})["$lte"]
        if isinstance(ripe, dict):
            found = [run for run in self.runs if run[0] <= ripe["$lte"]]
        else:
            found = [run for run in self.runs if run[0] == ripe and run[1] <= bound]
        self.looked.append(len(found))
        return [{"ripe": each, "_id": id} for each, id in found[passed : passed + limit]]

    def first(self, limit: int, until: float) -> list[tuple[float, str]]:
        return [run for run in self.runs if run[0] <= until][:limit]


@pytest.mark.parametrize("seed", range(40))
def test_windows_give_the_first_runs_whatever_was_asked_before(seed: int) -> None:
    dice = random.Random(seed)
    spread = dice.choice((0.0, 1.0, 1000.0, 1e7))
    often = dice.choice((0.0, 0.5, 1.0))  # so many have one and the same time
    shelf = Shelf([5.0 if dice.random() < often else dice.uniform(0, spread) for _ in range(500)])
    windows = Windows()

    for number in range(60):
        limit, until = dice.choice((1, 7, 64)), dice.choice((spread / 3, spread, 5.0, 1e9))

        found = windows.first("shelf", limit, until, shelf.ask, begin=until)

        wanted = shelf.first(limit, until)
        assert [(each["ripe"], each["_id"]) for each in found] == wanted
        for run in wanted[: dice.randrange(limit + 1)]:
            shelf.runs.remove(run)
        if dice.random() < 0.3:  # one that may come before what was seen
            shelf.runs = sorted([*shelf.runs, (dice.choice((5.0, dice.uniform(0, spread))), f"{600 + number:028x}")])
    assert len(shelf.looked) < 60 * 12


@pytest.mark.parametrize("apart", [1.0, 0.0])
def test_a_claimer_that_passes_the_first_runs_gets_those_behind_them(apart: float) -> None:
    """Where there are as many; and it looks at few more than those."""
    windows, shelf = Windows(), Shelf([apart * n for n in range(50_000)])
    windows.first("shelf", 64, 1e6, shelf.ask, begin=1e6)

    for passed in (64, 448, 0, 128, 448):
        found = windows.first("shelf", 64, 1e6, shelf.ask, begin=1e6, passed=passed)

        wanted = shelf.first(512, 1e6)[passed : passed + 64]
        assert [(each["ripe"], each["_id"]) for each in found] == wanted
        del shelf.runs[passed : passed + 64]

    assert max(shelf.looked[1:]) < 5000
    del shelf.runs[100:]
    assert windows.first("shelf", 64, 1e6, shelf.ask, begin=1e6, passed=64)[36:] == []
    assert windows.first("shelf", 64, 1e6, shelf.ask, begin=1e6, passed=128) == []


@pytest.mark.parametrize("apart", [1.0, 0.0])
def test_a_window_holds_few_runs_however_many_wait(apart: float) -> None:
    """Whether they ripen one after the other or all at the same time."""
    windows, shelf = Windows(), Shelf([apart * n for n in range(50_000)])

    for _ in range(20):
        windows.first("shelf", 64, 1e6, shelf.ask, begin=1e6)
        del shelf.runs[:64]

    assert shelf.looked[0] == 50_000
    assert max(shelf.looked[1:]) < 1000


@pytest.mark.parametrize("meets", range(1, 6))
def test_threads_that_share_windows_change_each_others_guesses_at_any_moment(meets: int) -> None:
    """A claim once failed where another thread had found the shelf empty while this one asked."""
    windows, shelf = Windows(), Shelf([5.0] * 100)
    windows.first("shelf", 10, 1e6, shelf.ask, begin=1e6)
    asked = 0

    def ask(where: dict[str, Any], limit: int, passed: int) -> list[dict[str, Any]]:
        nonlocal asked
        asked += 1
        if asked == meets:
            windows.learn("shelf", [], is_enough=False)
        return shelf.ask(where, limit, passed)

    for _ in range(5):
        found = windows.first("shelf", 10, 1e6, ask, begin=1e6)

        assert [(each["ripe"], each["_id"]) for each in found] == shelf.first(10, 1e6)


def test_next_ripe_is_found_by_windows_as_well(store: MongoPersister) -> None:
    store._features = Features(sorts_by_index=False, streams=False)
    for n, later in enumerate((0.5, 7.0, 5000.0, 9e9)):
        store.put([sealed(n, due=NOW + later)])

    for later in (0.5, 7.0, 5000.0, 9e9):
        for _ in range(2):
            assert store.exchange([], [want("A", "bar", "foo")], now=NOW, until=LATE).next_ripe == NOW + later
        store.cancel(_first(store), now=NOW)
    assert store.exchange([], [want("A")], now=NOW, until=LATE).next_ripe is None


def _first(store: MongoPersister) -> list[str]:
    """The run that ripens first."""
    found = store._link.runs.find({"state": "queued"}, {"_id": 1}).sort("ripe", 1).limit(1)
    return [each["_id"] for each in found]


# -- what the server can do ------------------------------------------------------------------------------------------


def test_a_plan_that_sorts_is_recognized() -> None:
    """As MongoDB, its shards and PostgreSQL write it."""
    by_index = {"queryPlanner": {"winningPlan": {"stage": "LIMIT", "inputStage": {"stage": "IXSCAN"}}}}
    merged = {"queryPlanner": {"winningPlan": {"stage": "SORT_MERGE", "inputStages": [{"stage": "IXSCAN"}]}}}
    sorted_ = {"shards": {"a": {"winningPlan": {"stage": "FETCH", "inputStage": {"stage": "SORT"}}}}}
    rejected = {"queryPlanner": {"winningPlan": {"stage": "IXSCAN"}, "rejectedPlans": [{"stage": "SORT"}]}}
    postgres = {"queryPlanner": {"Plan": {"Node Type": "Limit", "Plans": [{"Node Type": "Sort"}]}}}

    assert [not SORTS.isdisjoint(_stages(plan)) for plan in (by_index, merged, rejected, sorted_, postgres)] == [
        False, False, False, True, True,
    ]  # fmt: skip


def test_a_claim_is_served_by_the_index_without_sorting(store: MongoPersister) -> None:
    """Where the server explains its plan, and is not one that always sorts: then windows are used instead."""
    features = features_of(store._link)
    hello = store._link.hello()

    assert features.streams or not hello.get("setName")
    if "ferretdb" in str(store._link.client.admin.command("buildInfo")).lower():
        assert not features.sorts_by_index
    else:
        assert features.sorts_by_index


def test_the_log_says_what_a_server_lacks(store: MongoPersister) -> None:
    store._features = Features(sorts_by_index=False, streams=False)
    assert [text.partition(":")[0] for text in store.warnings()] == [
        "this server has no change streams",
        "this server does not find runs in the order of an index",
    ]
    store._features = Features(sorts_by_index=True, streams=True)
    assert store.warnings() == []


def test_a_weaker_write_concern_is_obeyed_and_told(url: str) -> None:
    with closing(open_url(f"{url}?w=1")) as store:
        store._features = Features(sorts_by_index=True, streams=True)

        (warning,) = store.warnings()

    assert "lost if a server dies" in warning


def test_transactions_that_cannot_be_committed_are_none(store: MongoPersister) -> None:
    assert has_transactions(store._link) == bool(store._link.hello().get("setName"))
