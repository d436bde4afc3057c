"""A job of a script in other processes: those of multiprocessing and concurrent.futures, and any that unpickles it."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import threading

import cloudpickle
import pytest

from skunkqueue import PayloadError, SkunkQueue

SCRIPT = """
import concurrent.futures, multiprocessing, pickle, sys, threading
from skunkqueue import SkunkQueue

queue = SkunkQueue("mp", sys.argv[1])
lock = threading.Lock()

@queue.event
def job(x):
    return x + 1

@queue.event(retries=2)
def locked(x):
    with lock:
        return x + 2

@queue.event
def itself(n):
    return n if n == 0 else itself(n - 1) + 1

class Report:
    @queue.event
    def build(self, x):
        return x + 3

if __name__ == "__main__":
    assert pickle.loads(pickle.dumps(job)) is job
    for method in ("fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor, context.Pool(1) as pool:
            for call in (job, locked, itself, Report().build):
                print(method, executor.submit(call, 5).result(60), pool.apply_async(call, (5,)).get(60))
            for fire in (job.fire, job.options(timeout=5).fire, Report().build.fire):
                run = executor.submit(fire, 5).result(60)
                print(run.state, run == queue.run(run.id))
            print(executor.submit(type, job).result(60).__name__)
"""


def run(path, *args, code=0):
    done = subprocess.run([sys.executable, str(path), *map(str, args)], capture_output=True, text=True, timeout=110)
    assert done.returncode == code, done.stderr
    return done.stdout


def test_a_job_of_a_script_goes_through_multiprocessing_as_function_and_as_fire(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)

    said = run(script, f"sqlite:///{tmp_path}/mp.db").splitlines()

    assert said == [
        line
        for method in ("fork", "spawn", "forkserver")
        for line in (*(f"{method} {n} {n}" for n in (6, 7, 5, 8)), *["queued True"] * 3, "Job")
    ]


WRITE = """
import pickle, sys
from skunkqueue import SkunkQueue
queue = SkunkQueue("mp", "memory://")
factor = 7
@queue.event
def job(x):
    return x * factor if x else job(3)
open(sys.argv[1], "wb").write(pickle.dumps(job, int(sys.argv[2])))
"""
READ = """
import pickle, sys
{before}
found = pickle.loads(open(sys.argv[1], "rb").read())
print(found(0), found.name, found.queue.name)
"""


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_any_other_process_gets_the_function_itself(tmp_path, protocol):
    (tmp_path / "write.py").write_text(WRITE)
    (tmp_path / "read.py").write_text(READ.format(before=""))

    run(tmp_path / "write.py", tmp_path / "job", protocol)

    assert run(tmp_path / "read.py", tmp_path / "job") == "21 job mp\n"


def test_another_script_with_a_job_of_that_name_gets_the_one_that_was_sent(tmp_path):
    (tmp_path / "write.py").write_text(WRITE)
    other = "from skunkqueue import SkunkQueue\n@SkunkQueue('o', 'memory://').event\ndef job(x): return 'the other'"
    (tmp_path / "read.py").write_text(READ.format(before=other))

    run(tmp_path / "write.py", tmp_path / "job", 5)

    assert run(tmp_path / "read.py", tmp_path / "job") == "21 job mp\n"


# -- of no script


@pytest.fixture
def queue():
    with SkunkQueue("mp", "memory://mp") as queue:
        yield queue


def test_a_job_that_no_name_leads_to_is_pickled_with_its_function(queue):
    @queue.event(retries=3, name="itself")
    def itself(n):
        return n and itself(n - 1) + 1

    for dumps in (pickle.dumps, cloudpickle.dumps):
        back = pickle.loads(dumps(itself))
        assert (back(4), back.name, back.options_given) == (4, "itself", itself.options_given)


def test_a_job_is_copied_as_a_function_is(queue):
    lock = threading.Lock()

    @queue.event
    def job():
        return lock

    assert copy.copy(job) is job
    assert copy.deepcopy([job])[0] is job


def test_what_cannot_go_along_is_named_where_it_is_missing(queue):
    lock = threading.Lock()

    @queue.event
    def job():
        return lock

    pickled = pickle.dumps(job)

    with pytest.raises(PayloadError, match="lock"):
        pickle.loads(pickled)
