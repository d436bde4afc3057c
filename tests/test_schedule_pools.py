"""Schedules where pools run: declared in code or made at run time, over kills and deployments; the command line."""

from __future__ import annotations

import json
import signal
import sys
import time
from itertools import pairwise

import pytest
from click.testing import CliRunner
from pools import PoolProcess, until

from skunkqueue import Adaptive, SkunkQueue, WorkerPool, WrongCall
from skunkqueue.cli.commands import skunq
from skunkqueue.envelope import State
from skunkqueue.schedules.registry import registry

SHOP = """
from skunkqueue import SkunkQueue
queue = SkunkQueue("demo")

@queue.event(every={every!r}, overlap="queue")
def restock():
    return "restocked"

@queue.event
def other():
    return 1
"""


@pytest.fixture(params=["sqlite", "redis"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/runs.db"
    server = request.getfixturevalue("shared_redis")
    with server.client() as client:
        client.flushall()
    return server.url


@pytest.fixture
def queue(url):
    with SkunkQueue("demo", url) as queue:
        yield queue
    registry.jobs.clear()  # what a test's functions declare


def deploy(folder, code):
    (folder / "shop.py").write_text(code)


def pool_on(folder, url, **options):
    return PoolProcess(
        folder, url, "default", imports=["shop"], lease=1, prelude="import sys; sys.path.insert(0, '')\n", **options
    )


def dues(queue):
    """When its runs were due, in order."""
    return sorted(run.due.timestamp() for run in queue.runs(limit=None))


def test_what_the_code_declares_runs_although_pools_are_killed(queue, url, tmp_path):
    deploy(tmp_path, SHOP.format(every="1s"))

    with pool_on(tmp_path, url) as first, pool_on(tmp_path, url) as second:
        until(lambda: len(dues(queue)) >= 3)
        first.send(signal.SIGKILL)
        seen = len(dues(queue))
        until(lambda: len(dues(queue)) >= seen + 3)
        with pool_on(tmp_path, url):
            second.send(signal.SIGKILL)
            seen = len(dues(queue))
            until(lambda: len(dues(queue)) >= seen + 3)
    ticks = dues(queue)

    gaps = [later - earlier for earlier, later in pairwise(ticks)]
    assert min(gaps) > 0.999  # no tick twice
    assert all(abs(gap - round(gap)) < 0.001 for gap in gaps)  # in phase
    assert {run._record.state for run in queue.runs(limit=None)} <= {State.SUCCEEDED, State.QUEUED, State.RUNNING}


def test_a_deployment_ends_what_the_code_no_longer_declares(queue, url, tmp_path):
    deploy(tmp_path, SHOP.format(every="1h"))
    with pool_on(tmp_path, url):
        until(lambda: [schedule.name for schedule in queue.schedules()] == ["shop:restock"])

    deploy(tmp_path, SHOP.format(every="2h"))
    with pool_on(tmp_path, url):
        until(lambda: [schedule.every for schedule in queue.schedules()] == ["2h"])

    deploy(tmp_path, SHOP.replace('every={every!r}, overlap="queue"', ""))
    with pool_on(tmp_path, url):
        until(lambda: queue.schedules() == [])


def test_a_pool_learns_of_a_new_schedule_at_once(queue):
    job = queue.event(len, name="count")

    with WorkerPool(queue, "default", in_process=True, lease=600):
        time.sleep(0.5)  # now it would look again in 200 s
        queue.schedule("count-abc", job.args("abc"), every=Adaptive(3600, 7200))
        schedule = until(lambda: next((s for s in queue.schedules() if s.last is not None), None))
        value = schedule.last.wait(30)

    assert value == 3
    assert (schedule.name, schedule.job, schedule.every, schedule.paused) == ("count-abc", "count", "1h to 2h", False)


def test_a_function_of_the_last_run_says_when_to_run_next(queue):
    @queue.event(every=lambda last: 1 if last.result else 3600)
    def poll():
        return poll_until > time.time()

    poll_until = time.time() + 1.5

    with WorkerPool(queue, "default", in_process=True, lease=3):
        until(lambda: (s := queue.schedules()) and s[0].last is not None and s[0].last.result is False)
        schedule = until(lambda: next((s for s in queue.schedules() if s.next is not None), None))

    assert schedule.next.timestamp() > time.time() + 3000


def test_what_a_script_declares_travels_by_value(url, tmp_path):
    (tmp_path / "script.py").write_text(
        "import os\n"
        "from skunkqueue import SkunkQueue, WorkerPool\n"
        f"queue = SkunkQueue('demo', {url!r})\n"
        "@queue.event(every=1)\n"
        "def hello():\n"
        "    return 'hello'\n"
        "WorkerPool(queue, 'default').listen()\n"
    )
    import subprocess

    process = subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        with SkunkQueue("demo", url) as queue:
            until(lambda: any(run.result == "hello" for run in queue.runs()))
            assert [(s.name, s.every) for s in queue.schedules()] == [("hello", "1s")]
    finally:
        process.terminate()
        process.wait(30)


def test_a_burst_makes_the_ticks_that_have_come(queue):
    job = queue.event(len, name="count")
    queue.schedule("x", job.args("ab"), every=1)
    time.sleep(1.1)

    WorkerPool(queue, "default", in_process=True).run_until_idle()

    assert [run.result for run in queue.runs()] == [2]


def test_schedules_are_listed_paused_and_fired(queue):
    job = queue.event(len, name="count")
    queue.schedule("b", job.args("ab"), every="0 7 * * mon-fri", zone="Europe/Berlin", missed="skip")
    queue.schedule("a", job.options(routes=["default", "foo"]).args("ab"), every=60, overlap="queue")

    first, second = queue.schedules()
    assert (first.name, first.routes, first.overlap, first.zone) == ("a", ("default", "foo"), "queue", None)
    assert (second.name, second.every, second.zone, second.missed) == ("b", "0 7 * * mon-fri", "Europe/Berlin", "skip")
    assert second.next.astimezone().timestamp() > time.time()
    assert (second.last, second.state, second.paused) == (None, None, False)

    second.pause(3600)
    assert queue.schedules()[1].paused
    assert queue.schedules()[1].until.timestamp() == pytest.approx(time.time() + 3600, abs=60)
    assert second.resume()
    assert not second.resume()
    assert len(first.fire()) == 2
    assert second.fire().state == State.QUEUED
    assert queue.unschedule("a")
    assert [schedule.name for schedule in queue.schedules()] == ["b"]


def test_what_is_internal_is_no_run_of_the_queue(queue):
    job = queue.event(len, name="count")
    queue.schedule("x", job.args("ab"), every=60)

    assert queue.runs() == []
    assert set(queue.count().values()) == {0}


def test_a_wrong_schedule_is_refused(queue, url):
    with pytest.raises(WrongCall, match="needs every="):
        queue.event(zone="Europe/Berlin")(print)
    with pytest.raises(WrongCall, match="without arguments"):

        @queue.event(every=60)
        def add(one, other):
            return one + other

    with pytest.raises(WrongCall, match="there is no missed 'twice'"):
        queue.event(every=60, missed="twice")(dict)
    with pytest.raises(WrongCall, match="leaves some out"):
        queue.event(every=60, missed="all", overlap="skip")(dict)
    with pytest.raises(WrongCall, match="follows its runs"):
        queue.event(every=Adaptive(1, 2), missed="all")(dict)
    with pytest.raises(WrongCall, match="broadcast"):
        SkunkQueue("demo", url, queue_type="broadcast").event(every=60)(dict)
    job = queue.event(len, name="count")
    with pytest.raises(WrongCall, match="made by job"):
        queue.schedule("x", ("ab",), every=60)
    with pytest.raises(TypeError):
        queue.schedule("x", queue.event(lambda value: value, name="same").args(), every=60)
    with pytest.raises(WrongCall, match="the name of a schedule"):
        queue.schedule("", job.args("ab"), every=60)
    with pytest.raises(WrongCall, match="there is no schedule"):
        queue.fire_schedule("nobody")


def test_the_command_line_lists_pauses_and_fires(queue, url):
    job = queue.event(len, name="count")
    queue.schedule("bob digest", job.args("ab"), every=60)

    def run(*words):
        return CliRunner().invoke(skunq, ["schedules", "-q", "demo", "--url", url, *words])

    assert "bob digest" in run().output
    assert run("pause", "bob digest", "--for", "1h").output == "bob digest paused\n"
    (row,) = json.loads(run("--json").output)
    assert row["paused"] and row["until"] and row["every"] == "1m"
    assert "paused until" in run().output
    assert run("resume", "bob digest").output == "bob digest resumed\n"
    fired = run("fire", "bob digest").output.strip()
    assert queue.run(fired).state == State.QUEUED
    assert json.loads(run("fire", "bob digest", "--json").output)["runs"]
    assert run("pause").exit_code == 2
    assert run("pause", "bob digest", "--for", "soon").exit_code != 0
    queue.unschedule("bob digest")
    assert "no schedules on queue demo" in run().output


def test_a_module_that_is_imported_for_a_run_declares_its_schedules(queue, url, tmp_path, monkeypatch):
    deploy(tmp_path, SHOP.format(every="1h"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("SKUNKQUEUE_URL", url)
    monkeypatch.delitem(sys.modules, "shop", raising=False)  # another test's
    import shop

    with PoolProcess(tmp_path, url, "default", prelude="import sys; sys.path.insert(0, '')\n"):
        assert queue.schedules() == []
        shop.other.fire().wait(30)

        until(lambda: [schedule.name for schedule in queue.schedules()] == ["shop:restock"])
    shop.queue.close()
    del sys.modules["shop"]
