"""Workers on threads of this process: the same engine, for tests, notebooks and small scripts."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import threading
import time

import pytest
from pools import LIMIT, until
from troubled import Said

from skunkqueue import JobFailed, Retry, SkunkError, SkunkQueue, WorkerPool, current_run
from skunkqueue.worker.child.interrupt import raise_in_thread

queue = SkunkQueue("demo", "memory://in-process")
seen = []
gate = threading.Event()


@queue.event
def add(first, second):
    seen.append(threading.current_thread().name)
    return first + second


@queue.event
async def slowly(seconds):
    seen.append("slowly")
    await asyncio.sleep(seconds)
    return seconds


@queue.event
def nap(seconds):
    seen.append("nap")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.005)


@queue.event
def stubborn():
    seen.append("stubborn")
    while not gate.is_set():
        try:
            gate.wait(0.05)
        except BaseException:
            continue
    return "at last"


@queue.event(retries=1, backoff=0.01)
def second_time():
    if current_run().attempt == 1:
        raise Retry
    return current_run().attempt


@queue.event
def exits():
    sys.exit(3)


@pytest.fixture(autouse=True)
def empty():
    seen.clear()
    gate.clear()
    queue.store.__init__("in-process")
    yield
    gate.set()
    queue.close()


def pool(*routes, **options):
    made = WorkerPool(queue, routes or "default", in_process=True, log=Said(), **options)
    made.log = made._log._stream
    return made


@pytest.mark.parametrize("concurrency", [1, 4])
def test_jobs_of_every_kind_run_on_threads(concurrency):
    runs = [add.fire(4, 5), slowly.fire(0.01), second_time.fire(), exits.fire()]

    pool(concurrency=concurrency).run_until_idle()
    until(lambda: runs[2].state != "scheduled")
    time.sleep(0.02)
    pool(concurrency=concurrency).run_until_idle()

    assert [run.result for run in runs] == [9, 0.01, 2, None]
    assert runs[3].error == "SystemExit: 3"
    assert all(name.startswith("skunkqueue-") for name in seen[:1])


@pytest.fixture
def many_descriptors():
    """More than select() can number, as a server with a thousand clients has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2000:
        pytest.skip(f"this user may open {hard} files at most")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000) if soft >= 0 else soft, hard))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    yield
    for each in opened:
        os.close(each)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_descriptors")
@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("in_process", [True, False])
def test_a_program_may_have_more_than_a_thousand_files_open(concurrency, in_process, tmp_path):
    with SkunkQueue("many", f"sqlite:///{tmp_path}/runs.db") as queue:
        double = queue.event(lambda number: 2 * number, name="double", timeout=20)
        with WorkerPool(queue, ["default"], in_process=in_process, concurrency=concurrency, log=Said()):
            assert double.fire_many([(n,) for n in range(5)]).wait(LIMIT) == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("job", ["nap", "slowly"])
def test_a_timeout_interrupts_and_the_worker_goes_on(job, concurrency):
    with pool(concurrency=concurrency) as p:
        run = globals()[job].options(timeout=0.2).fire(60)
        with pytest.raises(JobFailed, match=r"did not end within 0\.2 s"):
            run.wait(LIMIT)
        assert add.fire(1, 1).wait(LIMIT) == 2
        p.log.said(" started, process ")
        assert p.log.getvalue().count(" started, process ") == 1


@pytest.mark.parametrize("concurrency", [1, 4])
def test_what_does_not_return_is_judged_timed_out_and_its_thread_given_up(concurrency):
    with pool(concurrency=concurrency, kill_after=0.2) as p:
        run = stubborn.options(timeout=0.2).fire()
        behind = [add.fire(i, 1) for i in range(3)]
        with pytest.raises(JobFailed, match=r"did not end within 0\.2 s"):
            run.wait(LIMIT)

        assert [each.wait(LIMIT) for each in behind] == [1, 2, 3]
        p.log.said("died (given up)")
        gate.set()  # it comes back late, and nobody hears of it
        assert add.fire(2, 2).wait(LIMIT) == 4
    assert run.state == "failed"


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_rough_stop_gives_back_what_runs(concurrency):
    runs = [nap.fire(60), slowly.fire(60)]
    p = pool("default", "default", concurrency=concurrency)
    p.start()
    until(lambda: {"nap", "slowly"} <= set(seen))

    p.die()
    until(lambda: not p.running)

    assert [(run.state, run.attempts) for run in runs] == [("queued", 0)] * 2


def test_cancelling_interrupts():
    with pool():
        run = nap.fire(60)
        until(lambda: "nap" in seen)
        assert run.cancel()
        assert add.fire(1, 1).wait(9) == 2


def test_modules_are_imported_first(tmp_path, monkeypatch):
    (tmp_path / "imported_first.py").write_text("import test_in_process; test_in_process.seen.append('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    run = add.fire(1, 1)

    pool(imports="imported_first").run_until_idle()

    assert seen[0] == "imported"
    assert run.result == 2


def test_a_module_that_cannot_be_imported_ends_the_pool_with_a_sentence():
    with pytest.raises(SkunkError, match="cannot import not_there_at_all: ModuleNotFoundError"):
        pool(imports=["not_there_at_all"]).listen()


def test_a_pool_renews_its_threads_after_max_runs():
    runs = add.fire_many([(i, 1) for i in range(9)])

    p = pool(max_runs=3)
    p.run_until_idle()

    assert runs.results == list(range(1, 10))
    assert p.log.getvalue().count(" started, process ") >= 3


def test_a_pool_may_be_started_again_and_leaves_no_thread_behind():
    p = pool("default", "default")
    for n in range(3):
        run = add.fire(n, n)
        with p:
            assert run.wait(LIMIT) == n + n

    def ours():
        return [t.name for t in threading.enumerate() if t.name.startswith("skunkqueue-default") or "pool" in t.name]

    until(lambda: not ours(), message=f"{ours()} are left")


def test_a_job_fires_and_awaits_jobs_of_the_same_pool():
    @queue.event(routes=["outer"])
    def outer():
        return add.fire(1, 2).wait(LIMIT)

    with pool("outer", "default"):
        assert outer.fire().wait(LIMIT) == 3


def test_signals_are_answered_on_the_main_thread_only_while_listening():
    import os
    import signal

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()

    pool().listen()

    assert {number: signal.getsignal(number) for number in before} == before


def test_the_first_signal_to_a_pool_that_listens_again_is_gentle_again():
    import os
    import signal

    p = pool()
    for _ in range(2):
        run = nap.fire(1.0)
        seen.clear()
        threading.Thread(
            target=lambda: (until(lambda: "nap" in seen), os.kill(os.getpid(), signal.SIGTERM)), daemon=True
        ).start()
        p.listen()
        assert run.state == "succeeded"


def test_a_thread_can_be_traced_after_an_interrupt_that_came_too_late():
    """Debuggers and coverage trace. On Python 3.11 a traced thread hung once an interrupt had been withdrawn."""
    reached = []

    def withdraw():
        raise_in_thread(threading.get_ident(), None)
        reached.append("withdrawn")

    def trace():
        sys.settrace(lambda *_: None)
        add.function(1, 2)
        reached.append("traced")

    for step in (withdraw, trace):
        thread = threading.Thread(target=step, daemon=True)
        thread.start()
        thread.join(LIMIT)

    assert reached == ["withdrawn", "traced"]
