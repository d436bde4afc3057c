"""Nobody waits in silence: who waits for what no worker serves is told so, and what to start."""

from __future__ import annotations

import asyncio
import pickle
import re
from collections.abc import Iterator

import pytest
from hands import Hands
from pools import LIMIT

from skunkqueue import SkunkQueue, WaitTimeout, WorkerPool, hints
from skunkqueue.envelope import Outcome
from skunkqueue.notes import NONE, encode_notes
from skunkqueue.testing import drain


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was told before, and it is told soon."""
    monkeypatch.setattr(hints, "AFTER", 0.1)
    monkeypatch.setattr(hints, "_told", set())


@pytest.fixture
def queue(tmp_path) -> Iterator[SkunkQueue]:
    with SkunkQueue("demo", f"sqlite:///{tmp_path}/runs.db") as queue:
        yield queue


def job(queue, **options):
    @queue.event(**options)
    def add(x, y):
        return x + y

    return add


def test_waiting_on_a_route_that_nobody_serves_says_so_once_and_what_to_start(queue, capsys):
    add = job(queue, routes=["foo"])
    run = add.fire(1, 2)

    for waited in (run, run, add.fire(3, 4)):
        with pytest.raises(WaitTimeout):
            waited.wait(1.2)

    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert run.id in said[0]
    assert (
        f"no worker serves route foo of queue demo on {queue.url}; to start one: skunq work -q demo -r foo" in said[0]
    )


@pytest.mark.parametrize(("until", "when"), [(None, ""), (3600, r" until \d{4}-\d\d-\d\d \d\d:\d\d:\d\d")])
def test_waiting_on_a_route_that_is_paused_says_so_and_how_it_goes_on(queue, capsys, until, when):
    add = job(queue, routes=["foo"])
    Hands(queue, "foo").beat()
    queue.pause("foo", until)
    run = add.fire(1, 2)

    with pytest.raises(WaitTimeout) as raised:
        run.wait(1.2)

    wanted = f"route foo of queue demo is paused{when}; to go on: skunq resume -q demo -r foo"
    assert re.search(wanted, str(raised.value))
    assert re.search(wanted, capsys.readouterr().err)


def test_waiting_for_a_run_that_nobody_could_let_go_says_so_too(queue, capsys):
    add = job(queue, routes=["foo"])
    run = add.then(queue.event(len, routes=["bar"])).fire(1, 2)
    Hands(queue, "foo").beat()

    with pytest.raises(WaitTimeout, match="no worker serves route bar of queue demo") as raised:
        run.wait(1.2)

    assert raised.value.state == "waiting"
    assert "to start one: skunq work -q demo -r bar" in capsys.readouterr().err
    Hands(queue, "bar").beat()
    with pytest.raises(WaitTimeout, match=r"it is waiting$"):
        run.wait(1.2)


def test_awaiting_says_so_too(queue, capsys):
    run = job(queue).fire(1, 2)

    async def wait():
        async with asyncio.timeout(1.5):
            await run

    with pytest.raises(TimeoutError):
        asyncio.run(wait())

    assert capsys.readouterr().err.endswith("to start one: skunq work -q demo\n")


def test_awaiting_what_ends_in_time_says_nothing(queue, capsys, monkeypatch):
    monkeypatch.setattr(hints, "AFTER", LIMIT)
    run = job(queue).fire(1, 2)
    Hands(queue).succeed(3)

    async def wait():
        return await run

    assert asyncio.run(wait()) == 3
    assert capsys.readouterr().err == ""


def test_nothing_is_said_where_a_worker_is_alive(queue, capsys):
    now = queue.clock.now()
    queue.store.beat("w.1", '{"queue": "demo", "routes": ["default"]}', until=now + 60)
    run = job(queue).fire(1, 2)

    with pytest.raises(WaitTimeout, match=r"it is queued$"):
        run.wait(1.2)

    assert capsys.readouterr().err == ""


def test_nothing_is_said_where_a_gearman_server_may_have_a_worker_for_it(queue, capsys):
    queue.store.beat("g", '{"queue": "demo", "routes": [], "gearman": []}', until=queue.clock.now() + 60)

    with pytest.raises(WaitTimeout, match=r"it is queued$"):
        job(queue).fire(1, 2).wait(1.2)

    assert capsys.readouterr().err == ""


def test_nothing_is_said_of_what_is_due_later(queue, capsys):
    with pytest.raises(WaitTimeout, match=r"it is scheduled$"):
        job(queue).fire_at(3600, 1, 2).wait(1.2)

    assert capsys.readouterr().err == ""


def test_waiting_for_what_the_workers_cannot_have_says_so_while_it_is_put_off_and_when_it_is_ripe(queue, capsys):
    run = job(queue, routes=["foo"]).fire(1, 2)
    hands = Hands(queue, "foo")
    hands.beat()
    (claim,) = hands.take()
    notes = encode_notes(NONE._replace(unknown=queue.now()))
    again = Outcome.again(due=queue.now() + 0.4, error="there is no module shop here", notes=notes)
    queue.store.commit([(claim, again)], now=queue.now())

    with pytest.raises(WaitTimeout, match="there is no module shop here"):
        run.wait(1.0)

    (said,) = capsys.readouterr().err.splitlines()
    assert said.endswith(f"{run.id}: the workers on its route cannot have its job: there is no module shop here")


def test_the_end_of_the_wait_says_what_to_start(queue):
    run = job(queue).fire(1, 2)

    with pytest.raises(WaitTimeout, match=r"it is queued; no worker serves .*: skunq work -q demo$") as raised:
        run.wait(0.2)

    assert (raised.value.state, raised.value.error) == ("queued", None)


def test_the_end_of_the_wait_says_what_the_store_has_as_the_reason(queue):
    run = job(queue).fire(1, 2)
    hands = Hands(queue)
    (claim,) = hands.take()
    hands.commit(claim, Outcome.again(due=queue.clock.now() + 60, error="there is no module tasks here"))

    with pytest.raises(WaitTimeout, match=r"it is scheduled \(there is no module tasks here\)$") as raised:
        run.wait(0.2)

    assert (raised.value.state, raised.value.error) == ("scheduled", "there is no module tasks here")
    again = pickle.loads(pickle.dumps(raised.value))
    assert (str(again), again.state, again.error) == (str(raised.value), "scheduled", raised.value.error)


def test_a_worker_that_is_gone_is_named_where_a_broadcast_waits_for_it(tmp_path):
    with SkunkQueue("news", f"sqlite:///{tmp_path}/runs.db", queue_type="broadcast") as queue:
        queue.store.beat("w.1", '{"queue": "news", "routes": ["default"]}', until=queue.clock.now() + 60)
        runs = job(queue).fire(1, 2)
        queue.store.beat("w.1", "{}", until=queue.clock.now())

        with pytest.raises(WaitTimeout, match=r"the worker w\.1, to which it was sent, is gone"):
            runs.wait(0.2)


def test_a_store_of_one_process_wants_its_worker_there(capsys):
    with (
        SkunkQueue("demo", "memory://") as queue,
        pytest.raises(WaitTimeout, match=r"WorkerPool\(queue, in_process=True\)"),
    ):
        job(queue).fire(1, 2).wait(0.2)


def test_within_drain_nothing_is_said(capsys):
    with SkunkQueue("demo", "memory://drained") as queue:
        add = job(queue)

        @queue.event
        def outer():
            return add.fire(1, 2).wait(LIMIT)

        run = outer.fire()
        drain(queue)

        assert run.result == 3
    assert capsys.readouterr().err == ""


def test_a_hint_that_cannot_be_written_stops_nobody(queue, monkeypatch):
    monkeypatch.setattr("sys.stderr", None)

    with pytest.raises(WaitTimeout):
        job(queue).fire(1, 2).wait(1.2)


def test_a_pool_in_this_process_counts(queue, capsys):
    run = job(queue).fire_at(0.5, 1, 2)

    with WorkerPool(queue, in_process=True):
        assert run.wait(LIMIT) == 3

    assert "no worker serves" not in capsys.readouterr().err
