"""What survives a fault: workers and pools killed, stopped, interrupted; jobs that behave badly. On every store."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time

import pytest
from pools import LIMIT, PoolProcess, alive, children, marks, suspend, until

from skunkqueue import JobFailed, codec
from skunkqueue.envelope import Envelope, Seal, pack_body, pack_head
from skunkqueue.ids import new_id
from skunkqueue.policy import decode_notes


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.slow)])
def store_url(request, tmp_path):
    """An empty store that several processes can reach."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/runs.db"
    server = request.getfixturevalue("shared_redis")
    with server.client() as client:
        client.flushall()
    return server.url


@pytest.fixture
def jobs(store_url, tmp_path, monkeypatch):
    """The badly behaved jobs, on this test's store."""
    monkeypatch.setenv("SKUNKQUEUE_URL", store_url)
    monkeypatch.setenv("MARKS", str(tmp_path))
    if "robust_jobs" in sys.modules:
        module = importlib.reload(sys.modules["robust_jobs"])
    else:
        module = importlib.import_module("robust_jobs")
    yield module
    module.queue.close()


@pytest.fixture
def pool(store_url, tmp_path):
    """Starts pools; ends those still running."""
    started = []

    def start(*routes, **options):
        started.append(PoolProcess(tmp_path, store_url, *(routes or ("foo",)), **options))
        return started[-1]

    yield start
    for each in started:
        each.__exit__()


def record(jobs, run):
    return jobs.queue.store.get([run.id])[run.id]


# -- workers that die ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["SIGKILL", "segv", "exit"])
def test_a_job_that_kills_its_worker_three_times_is_poison_and_its_neighbours_do_not_notice(jobs, pool, tmp_path, how):
    neighbours = [jobs.add.fire(i, 1) for i in range(20)]
    bad = jobs.die.fire("bad", how)
    more = [jobs.add.fire(i, 2) for i in range(20)]

    with pool():
        with pytest.raises(JobFailed) as failure:
            bad.wait(LIMIT)
        values = [run.wait(LIMIT) for run in (*neighbours, *more)]

    assert values == [*range(1, 21), *range(2, 22)]
    assert all(run.attempts == 1 for run in (*neighbours, *more))
    assert marks(tmp_path, "bad") == 3
    assert "poison" in str(failure.value)
    named = {"SIGKILL": "SIGKILL", "segv": "SIGSEGV", "exit": "exit code 3"}[how]
    assert str(failure.value).count(named) == 3


def test_a_run_whose_worker_was_killed_runs_again_within_a_second(jobs, pool, tmp_path):
    with pool() as started:
        started.up()
        jobs.add.fire(1, 1).wait(LIMIT)
        run = jobs.die_once.fire("once")

        assert run.wait(LIMIT) == "survived"

    stamps = [float(line.split()[1]) for line in (tmp_path / "once").read_text().splitlines()]
    assert stamps[1] - stamps[0] < 1.0 + 2.0  # a second, and what a loaded machine takes to start a process


def test_a_worker_killed_from_outside_is_replaced_and_its_death_known_at_once(jobs, pool):
    with pool() as started:
        run = jobs.sleep_long.fire("long", 30)
        until(lambda: marks(os.environ["MARKS"], "long"))
        os.kill(started.up().workers()[0], signal.SIGKILL)

        until(lambda: marks(os.environ["MARKS"], "long") == 2, 10)
        assert record(jobs, run).lapses == 0  # no lease ran out for it
        assert decode_notes(record(jobs, run).notes).deaths == ("SIGKILL",)
        run.cancel()


def test_a_forked_child_that_holds_the_pipe_open_does_not_hide_a_death(jobs, pool, tmp_path):
    with pool():
        run = jobs.fork_hold_and_die.fire("forked")
        with pytest.raises(JobFailed, match="poison"):
            run.wait(12)

    assert marks(tmp_path, "forked") == 3


# -- pools that die --------------------------------------------------------------------------------------------------


def test_a_killed_pool_leaves_no_process_and_its_runs_to_another_pool(jobs, pool, tmp_path):
    first = pool("foo", "foo", lease=2)
    children_left = jobs.leave_children.fire("left").wait(LIMIT)
    held = jobs.sleep_long.fire("held", 30)
    until(lambda: marks(tmp_path, "held"))
    below = [*children(first.pid), children_left]
    killed = time.monotonic()
    first.send(signal.SIGKILL)

    until(lambda: not any(alive(pid) for pid in below), 5, "processes were left behind")
    with pool("foo", lease=2):
        until(lambda: marks(tmp_path, "held") == 2, 20)
        assert time.monotonic() - killed < 2 + 1 + 5  # lease + 1 s, and what a loaded machine takes to start a pool
        assert held.cancel()
        assert jobs.add.fire(2, 2).wait(LIMIT) == 4


def test_a_job_that_kills_its_pool_each_time_is_poison_and_those_that_only_waited_are_not(jobs, pool, tmp_path):
    bad = jobs.die.fire("bad", "pool")
    waiting = [jobs.add.fire(i, i) for i in range(10)]
    for _ in range(5):
        started = pool("foo", lease=1)
        until(lambda p=started: p.process.poll() is not None or bad.state not in ("queued", "running", "scheduled"), 20)
        if started.process.poll() is None:
            break

    assert bad.state == "failed"
    assert "poison" in bad.error
    assert [run.wait(LIMIT) for run in waiting] == [i + i for i in range(10)]


def test_a_pool_that_slept_past_its_lease_cannot_write_over_the_one_that_took_over(jobs, pool, store_url, tmp_path):
    sleeper = pool("foo", lease=1)
    run = jobs.marked.fire("zombie", 1.0, "late")
    until(lambda: marks(tmp_path, "zombie"))
    suspend(sleeper, store_url)
    for pid in sleeper.up().workers():
        until(lambda: marks(tmp_path, "zombie.done"))  # the worker itself goes on and ends the job
        assert alive(pid)
    with pool("foo", lease=1) as other:
        until(lambda: marks(tmp_path, "zombie") == 2)
        assert run.wait(LIMIT) == "late"
        taken_by = record(jobs, run).worker
        other.said("finished")
    sleeper.send(signal.SIGCONT)

    sleeper.said("refused")
    assert record(jobs, run).worker == taken_by
    assert sleeper.stop() == 0


def test_a_worker_starts_nothing_while_its_pool_has_slept_past_the_leases(jobs, pool, tmp_path):
    sleeper = pool("foo", lease=1)
    until(lambda: jobs.add.fire_many([(i, i) for i in range(50)])[-1].wait(LIMIT) is not None)
    runs = [jobs.marked.fire(f"run{i}", 0.01) for i in range(100)]
    until(lambda: marks(tmp_path, "run3"))
    sleeper.send(signal.SIGSTOP)
    time.sleep(1.5)  # past the lease
    started = sum(bool(marks(tmp_path, f"run{i}")) for i in range(100))
    time.sleep(0.5)

    assert sum(bool(marks(tmp_path, f"run{i}")) for i in range(100)) == started
    sleeper.send(signal.SIGCONT)
    for run in runs:
        run.wait(LIMIT)
    assert all(marks(tmp_path, f"run{i}") == 1 for i in range(100))


# -- stopping --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGABRT])
def test_a_gentle_stop_finishes_the_current_job_and_hands_back_the_rest_untouched(jobs, pool, tmp_path, number):
    current = jobs.marked.fire("current", 1.0, "done")
    rest = [jobs.add.fire(i, i) for i in range(30)]
    started = pool()
    until(lambda: marks(tmp_path, "current"))

    assert started.stop(number) == 0

    assert current.state == "succeeded"
    assert current.result == "done"
    assert all(run.state == "queued" and run.attempts == 0 for run in rest)
    assert jobs.queue.store.workers(now=jobs.queue.clock.now()) == {}


def test_a_pool_under_nohup_outlives_its_terminal(jobs, pool, tmp_path):
    started = pool(prelude="import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n").up()

    started.send(signal.SIGHUP)

    assert jobs.add.fire(1, 2).wait(LIMIT) == 3
    assert "pool stops" not in started.log()
    assert started.stop() == 0


def test_a_rough_stop_interrupts_the_job_records_nothing_and_gives_the_run_back(jobs, pool, tmp_path):
    run = jobs.sleep_long.fire("rough", 60)
    started = pool()
    until(lambda: marks(tmp_path, "rough"))

    assert started.stop(signal.SIGINT) == 0

    assert (run.state, run.attempts, run.result, run.error) == ("queued", 0, None, None)


def test_ctrl_c_reaches_every_process_of_the_group_and_still_ends_well(jobs, pool, tmp_path):
    runs = [jobs.sleep_long.fire(f"r{i}", 60) for i in range(2)]
    started = pool("foo", "foo")
    until(lambda: marks(tmp_path, "r0") and marks(tmp_path, "r1"))
    os.killpg(os.getpgid(started.pid), signal.SIGINT)
    for pid in started.up().workers():
        os.kill(pid, signal.SIGINT)  # as a terminal would, were they in its foreground group

    assert started.ends() == 0
    assert all((run.state, run.attempts) == ("queued", 0) for run in runs)


def test_a_job_stuck_in_c_is_killed_after_a_rough_stop_and_its_run_goes_back(jobs, pool, tmp_path):
    run = jobs.stuck_in_c.fire("stuck")
    started = pool("foo", kill_after=0.5)
    until(lambda: marks(tmp_path, "stuck"))

    assert started.stop(signal.SIGINT) == 0
    assert (run.state, run.attempts) == ("queued", 0)


def test_a_second_signal_turns_rough_and_a_third_kills(jobs, pool, tmp_path):
    rough, kill = jobs.sleep_long.fire("second", 60), jobs.swallow.fire("third")
    one, two = pool(), pool()
    until(lambda: marks(tmp_path, "second") and marks(tmp_path, "third"))
    by_name = {
        name: until(lambda run=run: next((p for p in (one, two) if f"took {run.id}" in p.log()), None))
        for name, run in (("r", rough), ("k", kill))
    }

    by_name["r"].send(signal.SIGTERM)
    by_name["r"].said("what runs may finish").send(signal.SIGTERM)
    assert by_name["r"].ends() == 0
    for _ in range(3):
        by_name["k"].send(signal.SIGTERM)
        time.sleep(0.3)
    assert by_name["k"].ends(4.5) == 0  # sooner than kill_after, which is 5 s

    assert (rough.state, kill.state) == ("queued", "queued")


def test_grace_turns_a_gentle_stop_rough(jobs, pool, tmp_path):
    run = jobs.sleep_long.fire("grace", 60)
    started = pool("foo", grace=0.5)
    until(lambda: marks(tmp_path, "grace"))

    assert started.stop() == 0
    assert (run.state, run.attempts) == ("queued", 0)


def test_an_interrupted_at_most_once_run_is_failed_not_given_back(jobs, pool, tmp_path):
    run = jobs.sleep_long.options(at_most_once=True).fire("once", 60)
    started = pool()
    until(lambda: marks(tmp_path, "once"))
    started.stop(signal.SIGINT)

    assert run.state == "failed"
    assert "at_most_once" in run.error


# -- timeouts and cancelling -----------------------------------------------------------------------------------------


def test_a_timeout_interrupts_a_sleep(jobs, pool):
    run = jobs.sleep_long.options(timeout=0.3).fire("slow", 60)
    after = jobs.add.fire(1, 1)
    with pool() as started:
        with pytest.raises(JobFailed, match=r"did not end within 0\.3 s"):
            run.wait(LIMIT)
        assert after.wait(LIMIT) == 2
        assert started.up().log().count("started, process") == 1  # the worker lived


@pytest.mark.parametrize("job", ["stuck_in_c", "swallow"])
def test_a_timeout_kills_a_worker_that_does_not_come_back_and_spares_its_neighbours(jobs, pool, job):
    with pool("foo", kill_after=0.3) as started:
        jobs.add.fire(0, 1).wait(LIMIT)  # the import of the jobs counts against a first run's timeout
        run = getattr(jobs, job).options(timeout=0.3).fire(job)
        after = [jobs.add.fire(i, 1) for i in range(5)]
        with pytest.raises(JobFailed, match=r"did not end within 0\.3 s"):
            run.wait(LIMIT)
        assert [r.wait(LIMIT) for r in after] == [1, 2, 3, 4, 5]
        assert all(r.attempts == 1 for r in after)
        started.said("is killed")


def test_an_async_job_is_interrupted_by_its_timeout(jobs, pool):
    run = jobs.async_sleep.options(timeout=0.3).fire("slow", 60)
    with pool() as started:
        with pytest.raises(JobFailed, match="did not end within"):
            run.wait(LIMIT)
        assert jobs.async_sleep.fire("next", 0).wait(LIMIT) == "next"
        assert started.up().log().count("started, process") == 1


def test_cancelling_a_running_job_interrupts_it_soon(jobs, pool, tmp_path):
    with pool() as started:
        run = jobs.sleep_long.fire("cancelled", 60)
        until(lambda: marks(tmp_path, "cancelled"))

        assert run.cancel()

        assert jobs.add.fire(1, 1).wait(4) == 2  # sooner than the next beat
        until(lambda: "cancelled" in started.log() or "its lease was taken away" in started.log())
        assert run.state == "cancelled"
        assert not marks(tmp_path, "cancelled.done")


def test_killing_a_route_cancels_what_waits_and_interrupts_what_runs(jobs, pool, tmp_path):
    with pool():
        runs = [jobs.sleep_long.fire(f"k{i}", 60) for i in range(3)]
        until(lambda: marks(tmp_path, "k0"))

        assert jobs.queue.kill_all_by_route("foo") == 3
        assert [run.state for run in runs] == ["cancelled"] * 3
        assert jobs.add.fire(1, 1).wait(LIMIT) == 2


# -- several at a time -----------------------------------------------------------------------------------------------


def test_several_run_at_a_time_in_one_worker(jobs, pool, tmp_path):
    runs = [jobs.sleep_long.fire(f"t{i}", 1.0) for i in range(3)]
    runs += [jobs.async_sleep.fire(f"a{i}", 1.0) for i in range(3)]
    with pool("foo", concurrency=6):
        until(lambda: all(marks(tmp_path, name) for name in ("t0", "t1", "t2", "a0", "a1", "a2")))
        for run in runs:
            run.wait(LIMIT)


def test_beside_a_death_all_are_suspects_and_only_a_death_alone_counts(jobs, pool, tmp_path):
    innocent = [jobs.marked.fire(f"i{n}", 2.0, n) for n in range(2)]
    bad = jobs.die.fire("bad", "SIGKILL")
    with pool("foo", concurrency=3):
        with pytest.raises(JobFailed, match="poison"):
            bad.wait(60)
        assert [run.wait(60) for run in innocent] == [0, 1]

    assert all(run.attempts == 1 for run in innocent)


def test_timeouts_interrupt_threads_and_tasks_among_several(jobs, pool):
    slow = [jobs.marked.options(timeout=0.3).fire("s1", 60), jobs.async_sleep.options(timeout=0.3).fire("s2", 60)]
    with pool("foo", concurrency=4) as started:
        for run in slow:
            with pytest.raises(JobFailed, match="did not end within"):
                run.wait(LIMIT)
        assert jobs.add.fire(1, 1).wait(LIMIT) == 2
        assert started.up().log().count("started, process") == 1


# -- jobs that behave badly ------------------------------------------------------------------------------------------

CLEAR = {
    "unsendable": "cannot be sent",
    "unsendable_error": "Odd: odd one",
    "error_without_words": "Silent",
    "sys_exit": "SystemExit: 3",
    "async_sys_exit": "SystemExit: 4",
    "base_exception": "GeneratorExit: base",
    "too_deep": "RecursionError",
    "huge": "too large",
    "give_up": "Fail: for good",
}


@pytest.mark.parametrize("concurrency", [1, 3])
def test_bad_ends_cost_a_clear_error_on_that_one_run_and_the_worker_lives(jobs, pool, concurrency):
    bad = {name: getattr(jobs, name).fire() for name in CLEAR}
    good = [jobs.add.fire(i, 1) for i in range(10)]
    with pool("foo", concurrency=concurrency) as started:
        for name, text in CLEAR.items():
            with pytest.raises(JobFailed, match=text):
                bad[name].wait(LIMIT)
        assert [run.wait(LIMIT) for run in good] == [*range(1, 11)]
        assert all(run.attempts == 1 for run in good)
        assert started.up().log().count("started, process") == 1


def test_jobs_that_make_a_mess_of_their_process_disturb_nobody(jobs, pool):
    with pool() as started:
        assert jobs.close_stdout.fire().wait(LIMIT) == "closed"
        assert jobs.start_threads.fire().wait(LIMIT) == "started"
        assert jobs.fork_and_hold.fire().wait(LIMIT) > 0
        assert jobs.fork_and_return.fire().wait(LIMIT) == "parent"
        left = jobs.leave_children.fire("c").wait(LIMIT)
        assert jobs.add.fire(1, 1).wait(LIMIT) == 2
        assert started.up().log().count("started, process") == 1

        assert started.stop() == 0

    until(lambda: not alive(left), 5, "a child of a job was left behind")


def test_retry_and_flaky_jobs_come_through(jobs, pool):
    with pool():
        assert jobs.retry_later.fire("later").wait(LIMIT) == "at last"
        assert jobs.flaky.fire("flaky", 2).wait(LIMIT) == 3
        with pytest.raises(JobFailed, match="not yet"):
            jobs.flaky.fire("hopeless", 9).wait(LIMIT)


def test_progress_can_be_read_while_it_runs(jobs, pool, tmp_path):
    with pool():
        run = jobs.progress.fire("p")
        until(lambda: record(jobs, run).progress is not None)
        assert (record(jobs, run).progress, record(jobs, run).note) == (0.4, "note")
        assert run.wait(LIMIT) == run.id


def test_a_job_can_fire_jobs_and_wait_for_them(jobs, pool):
    with pool("foo", "bar"):
        assert jobs.fire_more.fire(5).wait(LIMIT) == [0, 2, 4, 6, 8]


# -- payloads from strangers -----------------------------------------------------------------------------------------


def put_raw(jobs, body):
    now = jobs.queue.clock.now()
    envelope = Envelope(new_id(now), "demo", "foo", now, body)
    jobs.queue.store.put([envelope])
    return envelope.id


def strange_bodies():
    plain = codec.encode_call((), {}, "auto")
    head = pack_head("evil", "", Seal())
    code = codec.pickle_function(os.getcwd)
    good = pack_body(pack_head("add", "robust_jobs:add", Seal()), b"", codec.encode_call((1, 2), {}, "auto"))
    forged = b"\x00" * 4 + b"\x01" * 32
    return {
        "unsigned code": (pack_body(head, code, plain), "not signed"),
        "a wrong signature": (pack_body(head, code, plain, forged), "signed with 00000000"),
        "an unsigned pickle": (pack_body(pack_head("a", "robust_jobs:add", Seal()), b"", b"p" + code), "not signed"),
        "truncated": (good[:-9], ""),
        "half": (good[: len(good) // 2], ""),
        "random": (os.urandom(200), ""),
        "empty": (b"", ""),
        "not a job": (pack_body(pack_head("os:system", "os:system", Seal()), b"", plain), "not a job"),
        "a class": (pack_body(pack_head("x", "robust_jobs:NotAJob", Seal()), b"", plain), "not a job"),
    }


def test_payloads_of_strangers_fail_with_a_clear_error_and_execute_nothing(jobs, pool):
    ids = {name: (put_raw(jobs, body), text) for name, (body, text) in strange_bodies().items()}
    with pool(patience=0) as started:
        assert jobs.add.fire(1, 2).wait(LIMIT) == 3
        for name, (id, text) in ids.items():
            found = until(lambda i=id: (r := jobs.queue.store.get([i])[i]).state == "failed" and r)
            assert found.error, name
            assert text in found.error, (name, found.error)
        assert started.up().log().count("started, process") == 1


def test_an_unknown_job_is_put_back_then_failed_with_a_suggestion(jobs, pool):
    plain = codec.encode_call((1, 2), {}, "auto")
    id = put_raw(jobs, pack_body(pack_head("robust_jobs:ad", "robust_jobs:ad", Seal()), b"", plain))
    with pool("foo", patience=1) as started:
        started.said("cannot run robust_jobs:ad")
        found = until(lambda: (r := jobs.queue.store.get([id])[id]).state == "failed" and r)

    assert "did you mean robust_jobs:add" in found.error
