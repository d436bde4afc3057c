"""Runs that wait for others, as people fire them: values as arguments, chains, classes, and where pools are killed."""

from __future__ import annotations

import asyncio
import io
import json
import random
import signal
import time

import pytest
from click.testing import CliRunner
from pools import PoolProcess, until

from skunkqueue import JobCancelled, JobFailed, SkunkQueue, WorkerPool, WrongCall
from skunkqueue.cli.commands import skunq
from skunkqueue.envelope import State
from skunkqueue.testing import drain


@pytest.fixture(params=["memory", "sqlite", "redis"])
def url(request, tmp_path):
    if request.param == "memory":
        return f"memory://after-{time.monotonic_ns()}"
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


@pytest.fixture
def double(queue):
    return queue.event(lambda number: 2 * number, name="double")


@pytest.fixture
def told(queue):
    return queue.event(lambda *args, **kwargs: repr((args, kwargs)), name="told")


def fails(queue):
    def fail():
        raise ValueError("no")

    return queue.event(fail, name="fail")


def test_a_run_gets_the_values_of_those_it_waited_for(queue, double, told):
    one, many = double.fire(4), double.fire_many([(1,), (2,)])
    run = told.after([one, many]).fire(one, many, [one, 5], key={"one": one}, other=3)
    assert run.state == State.WAITING
    assert run.due is None

    drain(queue)

    assert run.result == "((8, [2, 4], [8, 5]), {'key': {'one': 8}, 'other': 3})"
    assert set(run.after) == {one, *many}
    assert one.after == one.after.__class__()


def test_the_handle_of_a_run_that_is_not_waited_for_stays_a_handle(queue, double):
    one, other = double.fire(1), double.fire(2)
    kind = queue.event(lambda value: type(value).__name__, name="kind")
    run = kind.after(one).fire(other)

    drain(queue)

    assert run.result == "Run"


def test_what_failed_comes_as_its_exception(queue, told, double):
    bad, good = fails(queue).fire(), double.fire(1)
    run = told.after([bad, good], on="ended").fire([bad, good])
    alarm = told.after([bad, good], on="failed").fire(bad)

    drain(queue)

    assert run.result == "(([JobFailed('no'), 2],), {})"
    assert alarm.result == "((JobFailed('no'),), {})"


def test_what_waits_for_a_failure_is_cancelled_with_the_reason(queue, told, double):
    bad = fails(queue).fire()
    run = told.after(bad).fire(bad)
    further = told.after(run).fire(run)
    alarm = told.after(double.fire(1), on="failed").fire()

    drain(queue)

    assert (run.state, further.state, alarm.state) == (State.CANCELLED,) * 3
    assert run.error == f"run {bad.id}, which it waited for, failed: ValueError: no"
    assert alarm.error == "none of the runs that it waited for failed"
    with pytest.raises(JobCancelled, match="was cancelled"):
        further.wait(1)
    with pytest.raises(JobFailed):
        bad.wait(1)


def test_a_chain_hands_on_what_each_returns(queue, double, told):
    chain = double.then(double).then(told)

    run = chain.fire(3)
    later = double.then(double).fire_at(3600, 1)
    assert repr(chain) == "<Chain double > double > told>"
    assert (run.state, later.state, later.after[0].state) == (State.WAITING, State.WAITING, State.SCHEDULED)
    drain(queue)

    assert run.result == "((12,), {})"
    assert run.after[0].result == 12
    assert len(run.after[0].after) == 1
    assert later.state == State.WAITING


def test_a_chain_is_fired_from_an_event_loop_too(queue, double, told):
    chain = double.then(double).then(told)

    async def fire():
        return await chain.afire(3), await chain.afire_at(3600, 4)

    soon, later = asyncio.run(fire())
    drain(queue)

    assert soon.result == "((12,), {})"
    assert later.after[0].after[0].state == State.SCHEDULED


def test_cancelling_the_first_cancels_what_waits_for_it(queue, double, told):
    first = double.fire_at(3600, 1)
    run = told.after(first).fire(first)
    last = told.after(run).fire(run)

    assert first.cancel()
    drain(queue)

    assert last.state == State.CANCELLED
    assert last.error == f"run {run.id}, which it waited for, was cancelled"


def test_waiting_runs_are_found_by_their_state(queue, double):
    first = double.fire_at(3600, 1)
    run = double.after(first).fire(first)

    assert queue.runs(state="waiting") == [run]
    assert queue.runs(state="scheduled") == [first]
    assert len(queue.runs()) == 2
    assert queue.count()[State.QUEUED] == 2


def test_many_calls_can_wait_for_one_run(queue, double):
    first = double.fire(1)
    runs = double.after(first).fire_many([(n,) for n in range(600)])

    drain(queue)

    assert runs.results == [2 * n for n in range(600)]


def test_a_wrong_call_is_refused(queue, double, url):
    run = double.fire(1)
    for wrong in ([], 5, "text", [run.id], None):
        with pytest.raises(WrongCall, match="after is given the runs"):
            double.after(wrong)
    with pytest.raises(WrongCall, match="there is no on 'done'"):
        double.after(run, on="done")
    with pytest.raises(WrongCall, match="there is no on_lost 'fail'"):
        double.after(run, on_lost="fail")
    with pytest.raises(WrongCall, match="takes no unique key"):
        double.options(unique="x").after(run)
    with pytest.raises(WrongCall, match="does not expire"):
        double.options(expires=5).after(run)
    with pytest.raises(WrongCall, match="of its own store"):
        double.after(SkunkQueue("demo", "memory://elsewhere").event(len, name="len").fire("abc"))
    with pytest.raises(WrongCall, match="broadcast"):
        SkunkQueue("demo", url, queue_type="broadcast").event(len, name="len").after(run)
    with pytest.raises(WrongCall, match="a chain is made of jobs"):
        double.then(len)
    with pytest.raises(WrongCall, match="has several"):
        double.then(double.options(routes=["foo", "bar"]))
    with pytest.raises(TypeError):
        double.after(run).fire()


def test_pools_let_waiting_runs_go_at_once(queue, double, told):
    with WorkerPool(queue, "default", in_process=True, log=io.StringIO(), lease=600):
        time.sleep(0.3)  # it would look again in 200 s

        assert double.then(double).then(double).fire(1).wait(30) == 8
        runs = double.fire_many([(n,) for n in range(300)])
        assert queue.event(sum, name="sum").after(runs).fire(runs).wait(30) == 2 * sum(range(300))


JOBS = """
from skunkqueue import SkunkQueue
queue = SkunkQueue("demo")

@queue.event
def member(number):
    return number

@queue.event
def total(numbers):
    return len(numbers), sum(numbers)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [10_000])
def test_a_chord_ends_once_while_pools_are_killed(tmp_path, monkeypatch, number):
    url = f"sqlite:///{tmp_path}/runs.db"
    (tmp_path / "chord.py").write_text(JOBS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("SKUNKQUEUE_URL", url)
    import chord

    dice = random.Random(7)
    members = chord.member.fire_many([(n,) for n in range(number)])
    done = chord.total.after(members).fire(members)

    def pool():
        return PoolProcess(tmp_path, url, "default", lease=1, prelude="import sys; sys.path.insert(0, '')\n")

    pools = [pool(), pool()]
    try:
        while done.state not in (State.SUCCEEDED, State.FAILED, State.CANCELLED):
            time.sleep(dice.uniform(0.2, 2))
            victim = dice.randrange(len(pools))
            pools[victim].send(signal.SIGKILL)
            pools[victim].__exit__()
            pools[victim] = pool()
        assert done.wait(0) == (number, sum(range(number)))
        assert done.attempts <= 3
        ended = [
            line for one in tmp_path.glob("pool-*.log") for line in one.read_text().splitlines() if "total" in line
        ]
        assert sum("finished" in line for line in ended) == 1
    finally:
        for one in pools:
            one.__exit__()
        chord.queue.close()


def test_the_graph_is_drawn_on_the_command_line(tmp_path):
    url = f"sqlite:///{tmp_path}/runs.db"
    with SkunkQueue("demo", url) as queue:
        job = queue.event(lambda number: number, name="same")
        run = job.then(job).then(job).fire(1)

        said = CliRunner().invoke(skunq, ["show", run.id, "--url", url]).output
        document = json.loads(CliRunner().invoke(skunq, ["show", run.id, "--url", url, "--json"]).output)
        listed = CliRunner().invoke(skunq, ["runs", "--url", url, "--state", "waiting"]).output

        first = run.after[0].after[0]
        assert "after" in said
        assert said.index(run.after[0].id) < said.index(first.id)
        assert document["state"] == "waiting"
        assert [one["id"] for one in document["after"]] == [run.after[0].id]
        assert run.id[-8:] in listed
        assert first.id[-8:] not in listed
        assert "9999" not in said
        assert "in 2" not in listed


def test_a_graph_whose_ways_meet_is_drawn_once(tmp_path):
    with SkunkQueue("demo", f"sqlite:///{tmp_path}/runs.db") as queue:
        job = queue.event(lambda number: number, name="job")
        layer = job.fire_many([(n,) for n in range(4)])
        for _ in range(6):
            layer = job.after(layer).fire_many([(n,) for n in range(4)])
        last = job.after(layer).fire(0)

        said = CliRunner().invoke(skunq, ["show", last.id, "--url", queue.url]).output

    assert len(said.splitlines()) < 150  # not 4 ** 7
    assert said.count("(above)") == 6 * 12


def test_pools_of_another_process_read_the_values(tmp_path):
    url = f"sqlite:///{tmp_path}/runs.db"
    with SkunkQueue("demo", url) as queue, PoolProcess(tmp_path, url, "default"):
        job = queue.event(lambda number: number + 1, name="next")

        run = job.then(job).fire(1)
        until(lambda: run.state == State.SUCCEEDED)

        assert run.result == 3
