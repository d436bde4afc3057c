"""What a queue has executed around its jobs in the workers, and the headers that travel with a run."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pools import LIMIT, PoolProcess

from skunkqueue import JobFailed, SkunkQueue, WorkerPool, WrongCall, current_run
from skunkqueue.codec import bare, decode_call, encode_call, headers_of, is_pickled, with_headers
from skunkqueue.testing import drain


@pytest.fixture
def queue(request) -> Iterator[SkunkQueue]:
    with SkunkQueue("demo", f"memory://{request.node.name}") as queue:
        yield queue


# -- around ----------------------------------------------------------------------------------------------------------


def test_what_is_around_a_job_is_done_before_and_after_each_attempt(queue):
    said = []

    @queue.around
    def outer(run):
        said.append(f"outer {run.job} {run.attempt}")
        try:
            yield
        finally:
            said.append("outer ends")

    @queue.around
    def inner(run):
        said.append("inner")
        yield
        said.append("inner ends")

    @queue.job(name="add", retries=1, backoff=0)
    def add(x, y):
        said.append("job")
        if current_run().attempt == 1:
            raise ValueError("once")
        return x + y

    run = add.fire(1, 2)
    drain(queue)

    assert run.result == 3
    assert said == [
        "outer add 1",
        "inner",
        "job",
        "outer ends",
        "outer add 2",
        "inner",
        "job",
        "inner ends",
        "outer ends",
    ]


def test_what_a_job_raises_is_raised_there_and_its_traceback_begins_in_the_job(queue):
    seen = []

    @queue.around
    def watching(run):
        try:
            yield
        except ZeroDivisionError as error:
            seen.append(str(error))
            raise

    @queue.job
    def divide(x):
        return 1 / x

    run = divide.fire(0)
    drain(queue)

    with pytest.raises(JobFailed) as raised:
        run.wait(0)
    assert seen == ["division by zero"]
    lines = raised.value.traceback.splitlines()
    assert lines[0].startswith("Traceback") and "in divide" in lines[1]
    assert "skunkqueue/hooks.py" not in raised.value.traceback


def test_what_is_around_may_fail_the_job(queue):
    @queue.around
    def closed(run):
        raise PermissionError("closed today")
        yield

    ran = []
    run = queue.job(name="ran")(lambda: ran.append(1)).fire()
    drain(queue)

    assert (run.state, run.error, ran) == ("failed", "PermissionError: closed today", [])


@pytest.mark.parametrize("kind", ["plain", "async", "returned"])
def test_what_is_around_a_job_cannot_make_a_failure_a_success(queue, kind):
    @queue.around
    def careless(run):
        with contextlib.suppress(ValueError):
            yield

    def plain():
        raise ValueError("no")

    async def coroutine():
        raise ValueError("no")

    job = {"plain": plain, "async": coroutine, "returned": lambda: coroutine()}[kind]
    run = queue.job(name="job")(job).fire()
    drain(queue)

    assert (run.state, run.error) == (
        "failed",
        "RuntimeError: the job did not end well, and what is around it did not let that through",
    )


def test_a_timeout_counts_though_what_is_around_the_job_does_not_let_it_through(queue):
    @queue.around
    def careless(run):
        with contextlib.suppress(BaseException):
            yield

    run = queue.job(name="job", timeout=0.2)(lambda: time.sleep(30)).fire()
    drain(queue)

    assert run.error == "TimeoutError: did not end within 0.2 s"


@pytest.mark.parametrize("concurrency", [1, 3])
def test_async_jobs_have_both_kinds_around_them_and_plain_jobs_the_plain_ones(queue, concurrency):
    said = []

    @queue.around
    def plainly(run):
        said.append("plain")
        yield
        said.append("plain ends")

    @queue.around
    async def asynchronously(run):
        await asyncio.sleep(0)
        said.append("async")
        yield
        said.append("async ends")

    @queue.job
    async def later(x):
        await asyncio.sleep(0.01)
        said.append("job")
        return x

    @queue.job
    def now(x):
        said.append("now")
        return x

    @queue.job
    def gives_a_coroutine(x):
        async def inside():
            await asyncio.sleep(0.01)
            said.append("inside")
            return x

        return inside()

    with WorkerPool(queue, in_process=True, concurrency=concurrency):
        assert later.fire(1).wait(LIMIT) == 1
        assert said == ["plain", "async", "job", "async ends", "plain ends"]
        said.clear()
        assert now.fire(2).wait(LIMIT) == 2
        assert said == ["plain", "now", "plain ends"]
        said.clear()
        assert gives_a_coroutine.fire(3).wait(LIMIT) == 3
        assert said == ["plain", "inside", "plain ends"]


@pytest.mark.parametrize("wrong", [lambda run: None, "no", len], ids=["lambda", "text", "builtin"])
def test_only_generator_functions_can_be_around(queue, wrong):
    with pytest.raises(WrongCall, match="around is for a generator function of the run"):
        queue.around(wrong)
    with pytest.raises(WrongCall, match="lifespan is for a generator function that is not async"):
        queue.lifespan(wrong)


# -- lifespan --------------------------------------------------------------------------------------------------------


def test_a_lifespan_begins_once_before_the_first_run_and_ends_with_the_worker(queue):
    said = []

    @queue.lifespan
    def first():
        said.append("first")
        yield {"a": 1, "b": 1}
        said.append("first ends")

    @queue.lifespan
    def second():
        said.append("second")
        yield {"b": 2}
        said.append("second ends")

    @queue.job
    def state():
        said.append("job")
        return dict(current_run().state)

    with WorkerPool(queue, in_process=True):
        assert [state.fire().wait(LIMIT), state.fire().wait(LIMIT)] == [{"a": 1, "b": 2}] * 2
        assert said == ["first", "second", "job", "job"]

    assert said == ["first", "second", "job", "job", "second ends", "first ends"]


def test_a_lifespan_begins_once_in_a_worker_that_runs_several_at_a_time(queue):
    began = []

    @queue.lifespan
    def slowly():
        began.append(1)
        time.sleep(0.3)  # the watchdog lets another thread take the next run meanwhile
        yield {"number": len(began)}

    @queue.job
    def number(seconds=0.0):
        time.sleep(seconds)
        return current_run().state["number"]

    @queue.job
    async def number_async():
        return current_run().state["number"]

    with WorkerPool(queue, in_process=True, concurrency=4):
        runs = [number.fire(0.05) for _ in range(6)] + [number_async.fire() for _ in range(6)]
        assert {run.wait(LIMIT) for run in runs} == {1}

    assert began == [1]


def test_a_run_whose_lifespan_fails_waits_for_a_worker_that_can(queue):
    broken = [True]

    @queue.lifespan
    def resources():
        if broken:
            raise OSError("no database")
        yield {"db": "here"}

    @queue.job
    def use():
        return current_run().state["db"]

    run = use.fire()
    drain(queue)
    assert run.state == "scheduled"
    assert "no database" in run.error
    broken.clear()
    run.promote()
    drain(queue)

    assert run.result == "here"


# -- in worker processes ---------------------------------------------------------------------------------------------


def test_worker_processes_have_the_hooks_of_the_module_they_import(tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path}/runs.db"
    monkeypatch.setenv("SKUNKQUEUE_URL", url)
    monkeypatch.setenv("MARKS", str(tmp_path))
    import importlib

    import around_jobs

    jobs = importlib.reload(around_jobs)
    with jobs.queue, PoolProcess(tmp_path, url, "default") as pool:
        values = {jobs.db.options(headers={"trace": "t1"}).fire().wait(LIMIT), jobs.adb.fire().wait(LIMIT)}
        failed = jobs.db.fire(fail=True)
        with pytest.raises(JobFailed):
            failed.wait(LIMIT)
        (worker,) = pool.workers()
        assert pool.stop() == 0

    assert values == {f"db of {worker}"}
    notes = Path(tmp_path, "notes").read_text().splitlines()
    assert notes[0] == f"opened in {worker}"
    assert notes[1:3] == ["db 1 t1 begins", "db 1 ends"]
    assert [line for line in notes if "raised" in line] == ["db 1 raised no", "db 2 raised no"]
    assert notes[-1] == f"closed in {worker}"
    assert sum(line.startswith("opened") for line in notes) == 1


def test_hooks_of_a_script_travel_with_its_jobs(tmp_path):
    url = f"sqlite:///{tmp_path}/runs.db"
    script = tmp_path / "script.py"
    script.write_text(
        "import os\n"
        "from skunkqueue import SkunkQueue, current_run\n"
        f"queue = SkunkQueue('demo', {url!r})\n"
        "opened = []\n"
        "@queue.lifespan\n"
        "def resources():\n"
        "    import time\n"
        "    yield {'opened': time.time()}\n"
        "@queue.around\n"
        "def doubled(run):\n"
        "    os.environ['AROUND'] = run.job\n"
        "    yield\n"
        "@queue.job\n"
        "def one():\n"
        "    return os.environ['AROUND'], current_run().state['opened']\n"
        "@queue.job\n"
        "def two():\n"
        "    return os.environ['AROUND'], current_run().state['opened']\n"
        "print(one.fire().id, two.fire().id)\n"
    )
    said = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path, timeout=LIMIT)
    assert said.returncode == 0, said.stderr

    with SkunkQueue("demo", url) as queue, PoolProcess(tmp_path, url, "default"):
        (one, since), (two, as_well) = (queue.run(id).wait(LIMIT) for id in said.stdout.split())

    assert (one, two) == ("one", "two")
    assert since == as_well, "once per worker, though each job came with it"


def test_two_scripts_have_each_its_own_lifespan_though_their_functions_have_one_name(tmp_path):
    url = f"sqlite:///{tmp_path}/runs.db"
    ids = []
    for name in ("one", "two"):
        script = tmp_path / f"{name}.py"
        script.write_text(
            "from skunkqueue import SkunkQueue, current_run\n"
            f"queue = SkunkQueue('demo', {url!r})\n"
            "@queue.lifespan\n"
            "def resources():\n"
            f"    yield {{'script': {name!r}}}\n"
            "@queue.job\n"
            "def which():\n"
            "    return current_run().state['script']\n"
            "print(which.fire().id)\n"
        )
        said = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path, timeout=LIMIT)
        assert said.returncode == 0, said.stderr
        ids.append(said.stdout.strip())

    with SkunkQueue("demo", url) as queue, PoolProcess(tmp_path, url, "default"):
        assert [queue.run(id).wait(LIMIT) for id in ids] == ["one", "two"]


# -- classes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Counted", "CountedAsync"])
def test_what_is_around_a_queue_is_around_a_class_that_names_it(tmp_path, monkeypatch, name):
    url = f"sqlite:///{tmp_path}/runs.db"
    monkeypatch.setenv("SKUNKQUEUE_URL", url)
    monkeypatch.setenv("MARKS", str(tmp_path))
    import importlib

    import around_jobs

    jobs = importlib.reload(around_jobs)
    with jobs.queue, PoolProcess(tmp_path, url, "default") as pool:
        value = jobs.queue.add(getattr(jobs, name)()("x")).wait(LIMIT)
        (worker,) = pool.workers()

    assert value == f"x with db of {worker}"
    notes = Path(tmp_path, "notes").read_text().splitlines()
    assert notes[1:3] == [f"around_jobs:{name} 1 None begins", f"around_jobs:{name} 1 ends"]


def test_a_class_of_a_script_that_names_its_queue_takes_its_hooks_along(tmp_path):
    url = f"sqlite:///{tmp_path}/runs.db"
    script = tmp_path / "script.py"
    script.write_text(
        "from skunkqueue import JobMixin, SkunkQueue, current_run\n"
        f"queue = SkunkQueue('demo', {url!r})\n"
        "@queue.lifespan\n"
        "def resources():\n"
        "    yield {'db': 'here'}\n"
        "class Named(JobMixin):\n"
        "    queue = queue\n"
        "    def work(self):\n"
        "        return dict(current_run().state)\n"
        "class Plain(JobMixin):\n"
        "    def work(self):\n"
        "        return dict(current_run().state)\n"
        "print(queue.add(Named()()).id, queue.add(Plain()()).id)\n"
    )
    said = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path, timeout=LIMIT)
    assert said.returncode == 0, said.stderr

    with SkunkQueue("demo", url) as queue, PoolProcess(tmp_path, url, "default"):
        assert [queue.run(id).wait(LIMIT) for id in said.stdout.split()] == [{"db": "here"}, {}]


# -- headers ---------------------------------------------------------------------------------------------------------


def test_headers_travel_with_the_run_and_are_no_arguments(queue):
    @queue.job
    def show(x):
        return x, dict(current_run().headers)

    sent = show.options(headers={"trace": "a-b", "who": "é"}).fire(1)
    plain = show.fire(2)
    many = show.options(headers={"trace": "c"}).fire_many([(3,), (4,)])
    drain(queue)

    assert (sent.headers, sent.args) == ({"trace": "a-b", "who": "é"}, (1,))
    assert queue.run(sent.id).headers == sent.headers
    assert sent.result == (1, {"trace": "a-b", "who": "é"})
    assert (plain.headers, plain.result) == ({}, (2, {}))
    assert [run.result[1] for run in many] == [{"trace": "c"}] * 2


def test_headers_travel_with_pickled_arguments_too(tmp_path):
    with SkunkQueue("demo", f"sqlite:///{tmp_path}/runs.db") as queue:
        run = queue.job(name="kind")(lambda kind: kind.__name__).options(headers={"a": "b"}).fire(Path)
        drain(queue)

        assert (run.result, run.headers, run.args) == ("Path", {"a": "b"}, None)
        assert run.open_call().args == (Path,)


def test_a_headed_call_reads_as_the_call_without():
    for args in ((1, "x"), (object,)):
        call = encode_call(args, {"k": 1})
        headed = with_headers({"a": "b"}, call)

        assert bare(headed) == call
        assert headers_of(headed) == {"a": "b"}
        assert headers_of(call) == {}
        assert is_pickled(headed) == is_pickled(call)
        assert list(decode_call(headed)[0]) == list(args)


@pytest.mark.parametrize("wrong", ["text", {"a": 1}, {1: "a"}, {"a": "\ud800"}], ids=repr)
def test_wrong_headers_are_refused_where_they_are_given(queue, wrong):
    with pytest.raises(WrongCall, match=r"headers are texts by name|lone surrogate"):
        queue.job(name="x")(len).options(headers=wrong)
