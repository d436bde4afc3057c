"""The wall clock is set while runs wait and leases hold: what is due is due by it, and each lease lasts as before."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pools import LIMIT, PoolProcess, until

from skunkqueue import SkunkQueue, ids
from skunkqueue.clock import Clock
from skunkqueue.envelope import Envelope, Outcome, Want
from skunkqueue.errors import StoreAway
from skunkqueue.ids import new_id
from skunkqueue.persistence import Persister
from skunkqueue.persistence.memory import MemoryPersister
from skunkqueue.persistence.sqlite import SQLitePersister
from skunkqueue.persistence.sqlite import open_url as open_sqlite

HOUR = 3600.0
LEASE = 15.0

Step = Callable[[float], None]
"""Sets the wall clock forward by so many seconds; or back, if they are negative."""


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch) -> Iterator[Step]:
    real, ahead = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + ahead[0])

    def step_by(seconds: float) -> None:
        ahead[0] += seconds

    yield step_by


@pytest.fixture
def boot(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Starts the machine anew, as far as SQLite can tell."""
    numbers = iter(range(100))

    def boot_anew() -> None:
        number = next(numbers)
        ids._forget_ids()  # as in a process that was started after it
        monkeypatch.setattr("skunkqueue.persistence.sqlite.boot_id", lambda: f"boot {number}")

    boot_anew()
    return boot_anew


@pytest.fixture(params=["memory", "sqlite"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Persister]]:
    """One more handle to the same store, as another process has it."""
    if request.param == "memory":
        store = MemoryPersister()
        yield lambda: store
        return
    opened: list[SQLitePersister] = []

    def open_one() -> Persister:
        opened.append(open_sqlite(f"sqlite:///{tmp_path}/runs.db"))
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()


class Sender:
    """A process that fires: it measures the store's time when its own wall clock was set."""

    def __init__(self, store: Persister) -> None:
        self.store, self.clock = store, Clock(store.offset)

    def fire(self, delay: float = 0.0, expires: float | None = None, keep: float = 100.0) -> Envelope:
        now = self.clock.now_at_last()
        envelope = Envelope(new_id(now), "demo", "foo", now + delay, b"", expires and now + expires, None, keep)
        self.store.put([envelope])
        return envelope


class Taker:
    """A pool: it measures at every beat, not in between."""

    def __init__(self, store: Persister, name: str) -> None:
        self.store, self.name, self.clock = store, name, Clock(store.offset)
        self.clock.now()

    def want(self) -> Want:
        return Want("demo", ("foo",), self.name, f"{self.name}-{time.monotonic_ns()}", 10)

    def take(self) -> list[Any]:
        now = self.clock.now()
        return self.store.claim([self.want()], now=now, until=now + LEASE)

    def beat(self) -> None:
        self.clock.measure()
        self.store.beat(self.name, "", until=self.clock.now() + LEASE)


SURVIVES_A_BOOT = pytest.mark.parametrize("opener", ["sqlite"], indirect=True)
STEPS = pytest.mark.parametrize("by", [HOUR, -HOUR, 3.0, -3.0, 1e6, -1e6])


@STEPS
def test_what_is_due_is_due_by_the_wall_clock_as_corrected(
    opener: Callable[[], Persister], step: Step, by: float
) -> None:
    sender, taker = Sender(opener()), Taker(opener(), "a")
    later = sender.fire(delay=abs(by) / 2 + 10)

    step(by)
    taker.beat()

    assert [claim.id for claim in taker.take()] == ([later.id] if by > abs(by) / 2 + 10 else [])
    assert abs(taker.clock.now() - time.time()) < 0.1


@STEPS
def test_a_step_ends_no_lease_and_makes_none_last_longer(
    opener: Callable[[], Persister], step: Step, by: float
) -> None:
    sender, holder, other = Sender(opener()), Taker(opener(), "a"), Taker(opener(), "b")
    sender.fire()
    (claim,) = holder.take()

    step(by)
    other.beat()

    assert other.take() == []
    record = other.store.get([claim.id])[claim.id]
    assert LEASE - 2 < record.ripe - other.clock.now() <= LEASE
    assert holder.store.commit([(claim, Outcome.complete(b""))], now=holder.clock.now()) == {claim.id}
    assert abs((other.store.get([claim.id])[claim.id].ended or 0) - time.time()) < 2


@STEPS
def test_a_claim_under_way_while_the_clock_is_set_gets_a_whole_lease(tmp_path: Path, step: Step, by: float) -> None:
    """It has reckoned its lease with the clock as it was; another process sets the store's meanwhile."""
    with closing(open_sqlite(f"sqlite:///{tmp_path}/runs.db")) as first, closing(open_sqlite(first.url)) as second:
        sender, slow, other = Sender(first), Taker(first, "a"), Taker(second, "b")
        sender.fire()
        now = slow.clock.now()

        step(by)
        other.beat()
        (claim,) = first.claim([slow.want()], now=now, until=now + LEASE)

        assert other.take() == []
        assert LEASE - 2 < second.get([claim.id])[claim.id].ripe - other.clock.now() <= LEASE
        first.commit([(claim, Outcome.again(due=now + 5, error="no"))], now=now)
        assert abs(second.get([claim.id])[claim.id].ripe - other.clock.now() - 5) < 2


@STEPS
def test_a_retry_under_way_while_the_clock_is_set_comes_when_it_was_to_come(
    opener: Callable[[], Persister], step: Step, by: float
) -> None:
    store = opener()
    taker = Taker(store, "a")
    Sender(store).fire()
    now = taker.clock.now()
    (claim,) = store.claim([taker.want()], now=now, until=now + LEASE)

    step(by)
    store.offset()
    store.commit([(claim, Outcome.again(due=now + 5, error="no"))], now=now)

    assert abs(store.get([claim.id])[claim.id].ripe - time.time() - 5) < 2


def test_after_a_step_a_put_waits_for_another_writer_as_long_as_ever(
    tmp_path: Path, step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(open_sqlite(f"sqlite:///{tmp_path}/runs.db")) as store:
        sender = Sender(store)
        sender.fire()
        now, follow = sender.clock.now(), store._follow
        other = sqlite3.connect(f"{tmp_path}/runs.db", isolation_level=None, check_same_thread=False)

        def follow_behind_another(*args: Any) -> None:
            other.execute("BEGIN IMMEDIATE")
            threading.Timer(1.0, other.execute, ["COMMIT"]).start()
            follow(*args)

        monkeypatch.setattr(store, "_follow", follow_behind_another)
        step(HOUR)
        late = Envelope(new_id(now), "demo", "foo", now, b"", None, None, 60.0)

        assert store.put([late]) == [late.id]
        other.close()


def test_a_clock_that_could_not_ask_its_store_asks_again(step: Step) -> None:
    answers: list[float | None] = [0.0]

    def offset() -> float | None:
        if not answers:
            raise StoreAway("away")
        return answers[0]

    clock = Clock(offset)
    clock.measure()
    step(-HOUR)
    answers.clear()
    with pytest.raises(StoreAway):
        clock.now_at_last()
    answers.append(0.0)

    assert abs(clock.now_at_last() - time.time()) < 1


def test_what_was_fired_at_once_by_a_clock_ahead_is_run_at_once_when_it_is_set_right(
    opener: Callable[[], Persister], step: Step
) -> None:
    step(HOUR)
    sender, taker = Sender(opener()), Taker(opener(), "a")
    first, at_noon = sender.fire(expires=600), sender.fire(delay=20.0)
    (held,) = Taker(opener(), "b").take()
    second = sender.fire(expires=600)

    step(-HOUR)
    taker.beat()

    assert [claim.id for claim in taker.take()] == [second.id]
    assert held.id == first.id
    assert taker.store.commit([(held, Outcome.untouched())], now=taker.clock.now()) == {first.id}
    (back,) = taker.take()
    assert back.id == first.id
    assert back.envelope.expires is not None and abs(back.envelope.expires - time.time() - 600) < 2
    assert taker.store.get([at_noon.id])[at_noon.id].ripe == at_noon.due  # as it was said


@SURVIVES_A_BOOT
def test_what_was_fired_by_a_clock_behind_does_not_expire_when_it_is_set_right(
    opener: Callable[[], Persister], step: Step, boot: Callable[[], None]
) -> None:
    sender = Sender(opener())
    before = sender.fire(expires=HOUR / 2)  # by the right clock
    step(-HOUR)
    boot()
    sender, taker = Sender(opener()), Taker(opener(), "a")
    taker.beat()
    run, forever, careless = sender.fire(expires=600), sender.fire(), sender.fire(delay=20.0, expires=600)

    step(HOUR)
    taker.beat()
    claims = {claim.id: claim for claim in taker.take()}

    assert {before.id, run.id, forever.id} <= claims.keys()
    assert careless.id not in claims  # for later, by a clock that was wrong: its time is long past
    expires = claims[run.id].envelope.expires
    assert expires is not None and abs(expires - time.time() - 600) < 2


def test_what_is_fired_by_a_process_that_does_not_know_yet_is_due_at_once(tmp_path: Path, step: Step) -> None:
    step(HOUR)
    with closing(open_sqlite(f"sqlite:///{tmp_path}/runs.db")) as first, closing(open_sqlite(first.url)) as second:
        sender, taker = Sender(first), Taker(second, "a")
        now = sender.clock.now()

        step(-HOUR)
        taker.beat()
        first.put([Envelope(new_id(now), "demo", "foo", now, b"", None, None, 100.0)])

        assert len(taker.take()) == 1


@SURVIVES_A_BOOT
@pytest.mark.parametrize("wrong", [-HOUR, HOUR, -1e9])
def test_a_machine_that_starts_with_a_wrong_clock_and_is_set_right(
    opener: Callable[[], Persister], step: Step, boot: Callable[[], None], wrong: float
) -> None:
    sender = Sender(opener())
    before, in_ten_minutes = sender.fire(), sender.fire(delay=600)
    Taker(opener(), "gone").beat()

    step(wrong)
    boot()
    early = Taker(opener(), "early")
    if wrong < 0:
        assert early.take() == []
    step(-wrong)
    early.beat()
    late = Taker(opener(), "late")

    taken = [claim.id for claim in (*early.take(), *late.take())]
    assert taken[:1] == [before.id]
    assert in_ten_minutes.id not in taken
    assert abs(late.clock.now() - time.time()) < 0.1


@pytest.mark.parametrize("wrong", [-HOUR, 0.0, HOUR])
def test_after_a_restart_of_the_machine_what_others_held_is_free_at_once(
    tmp_path: Path, step: Step, boot: Callable[[], None], wrong: float
) -> None:
    with closing(open_sqlite(f"sqlite:///{tmp_path}/runs.db")) as store:
        Sender(store).fire()
        gone = Taker(store, "gone")
        gone.beat()
        (claim,) = gone.take()

    step(wrong)
    boot()
    with closing(open_sqlite(f"sqlite:///{tmp_path}/runs.db")) as store:
        anew = Taker(store, "anew")
        assert store.workers(now=anew.clock.now()) == {}
        assert [each.id for each in anew.take()] == [claim.id]
        with store._file.reading() as db:
            assert len(db.execute("SELECT * FROM clock").fetchall()) == 1


def test_workers_are_there_as_long_as_before(opener: Callable[[], Persister], step: Step) -> None:
    there, other = Taker(opener(), "there"), Taker(opener(), "other")
    there.beat()

    for by in (HOUR, -2 * HOUR, 7.0):
        step(by)
        other.beat()
        now = other.clock.now()

        assert set(other.store.workers(now=now)) == {"there", "other"}
        assert set(other.store.workers(now=now + LEASE + 1)) == set()


def test_a_step_wakes_who_waits_for_work(tmp_path: Path, step: Step) -> None:
    with closing(open_sqlite(f"sqlite:///{tmp_path}/runs.db")) as store:
        from skunkqueue.persistence import WorkKey

        sender, taker = Sender(store), Taker(store, "a")
        sender.fire(delay=600)
        store.wait([WorkKey("demo", "foo")], 0.0)
        waited: list[float] = []

        def wait() -> None:
            store.wait([WorkKey("demo", "foo")], 0.0)
            began = time.monotonic()
            store.wait([WorkKey("demo", "foo")], 20.0)
            waited.append(time.monotonic() - began)

        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(1.0)
        step(HOUR)
        taker.beat()
        thread.join(LIMIT)

        assert waited[0] < 10.0


def test_small_differences_are_left_alone(tmp_path: Path, step: Step) -> None:
    with closing(open_sqlite(f"sqlite:///{tmp_path}/runs.db")) as store:
        taker = Taker(store, "a")
        before = taker.clock.now() - time.monotonic()

        step(0.02)
        taker.beat()

        assert abs(taker.clock.now() - time.monotonic() - before) < 0.005


# -- real processes --------------------------------------------------------------------------------------------------

SET_BY_A_FILE = """
import os, time
_real = time.time
def _time():
    with open({path!r}) as file:
        return _real() + float(file.read() or 0)
time.time = _time
"""


class WallClock:
    """The wall clock of several processes: what it is ahead stands in a file."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "ahead"
        self.set(0.0)
        self.prelude = SET_BY_A_FILE.format(path=str(self.file))

    def set(self, ahead: float) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(repr(ahead))
        new.rename(self.file)


FIRE = """
import sys
from skunkqueue import SkunkQueue, ids
queue = SkunkQueue("demo", sys.argv[1])
import robust_jobs
run = robust_jobs.add.fire(1, 2)
for line in sys.stdin:
    print(robust_jobs.add.fire(1, 2).id, flush=True)
"""


@pytest.mark.parametrize("wrong", [-HOUR, HOUR])
def test_pools_and_senders_in_processes_of_their_own_go_on_when_the_clock_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    url, clock = f"sqlite:///{tmp_path}/runs.db", WallClock(tmp_path)
    monkeypatch.setenv("SKUNKQUEUE_URL", url)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    clock.set(wrong)
    with PoolProcess(tmp_path, url, "foo", prelude=clock.prelude, lease=3) as pool, SkunkQueue("demo", url) as queue:
        pool.up()
        sender = subprocess.Popen(
            [sys.executable, "-c", clock.prelude + FIRE, url],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ),
        )  # fmt: skip
        assert sender.stdin is not None and sender.stdout is not None

        def fire() -> str:
            sender.stdin.write("\n")
            sender.stdin.flush()
            return sender.stdout.readline().strip()

        try:
            first = fire()
            until(lambda: queue.store.get([first])[first].state == "succeeded")
            clock.set(0.0)
            second = fire()
            until(lambda: queue.store.get([second])[second].state == "succeeded", 10.0)
            assert abs(queue.store.get([second])[second].envelope.due - time.time()) < 10
        finally:
            sender.kill()
            sender.communicate()
        assert pool.stop() == 0
        assert "lost" not in pool.log()


def test_a_program_that_only_looks_sees_what_is_due_by_the_clock_as_set(tmp_path: Path, step: Step) -> None:
    with SkunkQueue("demo", f"sqlite:///{tmp_path}/runs.db") as queue:
        run = queue.event(print).fire_at(HOUR / 2)
        assert run.state == "scheduled"

        step(HOUR)

        assert run.state == "queued"
        assert queue.runs(state="scheduled") == []
        step(-HOUR)
        assert run.state == "scheduled"
        assert [each.id for each in queue.runs(state="scheduled")] == [run.id]
