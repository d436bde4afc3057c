"""New workers with new code, while the old ones finish what they run: by a change of a file, by SIGUSR2."""

from __future__ import annotations

import importlib
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pools import LIMIT, alive, until
from test_cli import Skunq

from skunkqueue import SkunkQueue, WorkerPool, WrongCall

SHOP = """
import os, time
from pathlib import Path
from skunkqueue import SkunkQueue

queue = SkunkQueue("demo")
here = Path(__file__).parent

def mark(name):
    with (here / name).open("a") as file:
        file.write(f"{os.getpid()}\\n")

@queue.event
def version():
    return VERSION

@queue.event
def slow(name):
    mark(name)
    while not (here / "go").exists():
        time.sleep(0.01)
    return VERSION

@queue.event
def count(number):
    mark(f"count-{number}")
    time.sleep(0.005)
"""


class Shop:
    """A module of jobs in a folder, the workers that run it, and the program that fires."""

    def __init__(self, folder: Path, skunq: Skunq) -> None:
        self.folder = folder
        self.skunq = skunq
        self.programs: list[Any] = []
        self.write(1)
        self.jobs: ModuleType = importlib.import_module("shop")

    def write(self, version: int, code: str = "") -> None:
        (self.folder / "new").write_text(SHOP.replace("VERSION", str(version)) + code)
        (self.folder / "new").rename(self.folder / "shop.py")  # at once, as editors do

    def work(self, *options: str) -> Any:
        program = self.skunq.start("work", "-q", "demo", *options)
        self.programs.append(program)
        if "--reload" in options:
            self.skunq.says("for changes")
        return program

    def marks(self, name: str) -> list[int]:
        """The processes in which a job has started."""
        path = self.folder / name
        return [int(line) for line in path.read_text().splitlines()] if path.exists() else []

    def counted(self, numbers: range) -> Counter[int]:
        """How often each count has started."""
        return Counter({number: len(self.marks(f"count-{number}")) for number in numbers})


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    skunq = Skunq(tmp_path)
    monkeypatch.setenv("SKUNKQUEUE_URL", skunq.url)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "shop", raising=False)
    shop = Shop(tmp_path, skunq)
    yield shop
    for program in shop.programs:
        program.kill()
        program.wait(LIMIT)
    shop.jobs.queue.close()
    monkeypatch.delitem(sys.modules, "shop")


def test_a_change_starts_new_workers_while_the_old_ones_finish(shop: Shop) -> None:
    shop.work("--reload")
    slow = shop.jobs.slow.fire("slow")
    until(lambda: shop.marks("slow"))

    shop.write(2)
    shop.skunq.says("shop.py changed: new workers start, the old ones finish what they run")

    assert shop.jobs.version.fire().wait(LIMIT) == 2  # by the same slot, whose old worker is busy
    assert slow.state == "running"
    [alive_now] = shop.jobs.queue.store.workers(now=shop.jobs.queue.now()).values()
    assert '"queue": "demo"' in alive_now
    (shop.folder / "go").touch()
    assert slow.wait(LIMIT) == 1
    assert (slow.attempts, len(shop.marks("slow"))) == (1, 1)
    shop.skunq.says("default.1 stopped")
    assert not re.search("died|Traceback|handed back", shop.skunq.log)


def test_an_old_worker_is_interrupted_cancelled_and_shown_like_any_other(shop: Shop) -> None:
    shop.work("--lease", "1s")
    slow = shop.jobs.slow.fire("slow")
    until(lambda: shop.marks("slow"))
    os.kill(shop.programs[0].pid, signal.SIGUSR2)
    assert shop.jobs.version.fire().wait(LIMIT) == 1
    until(lambda: slow.id in str(shop.jobs.queue.store.workers(now=shop.jobs.queue.now())))

    time.sleep(1.5)  # past its first lease, which must have been extended
    assert slow.state == "running"
    assert slow.cancel()

    until(lambda: not alive(shop.marks("slow")[0]))
    os.kill(shop.programs[0].pid, signal.SIGTERM)
    assert shop.programs[0].wait(LIMIT) == 0


def test_a_module_that_is_broken_makes_workers_wait_and_costs_no_run_an_attempt(shop: Shop) -> None:
    shop.work("--reload", "--patience", "0.1")
    assert shop.jobs.version.fire().wait(LIMIT) == 1

    shop.write(2, "def (")
    shop.skunq.says("default.1 cannot import shop: SyntaxError: ")
    run = shop.jobs.version.fire()
    time.sleep(1)
    assert (run.state, run.attempts, run.error) == ("queued", 0, None)

    shop.write(3)
    assert run.wait(LIMIT) == 3
    assert run.attempts == 1
    assert not re.search("retries|failed|cannot run|died", shop.skunq.log)
    assert shop.skunq.log.count("it takes no runs until the code is mended and reloaded") == 1


def test_a_module_that_is_broken_at_the_start_is_waited_for(shop: Shop) -> None:
    shop.write(1, "raise ValueError('no settings')")
    shop.work("--reload", "--import", "shop")
    shop.skunq.says("cannot import shop: ValueError: no settings")

    shop.write(2)

    assert shop.jobs.version.fire().wait(LIMIT) == 2


def test_a_module_that_was_removed_is_not_waited_for(shop: Shop) -> None:
    program = shop.work()
    assert shop.jobs.version.fire().wait(LIMIT) == 1

    (shop.folder / "shop.py").rename(shop.folder / "store.py")
    os.kill(program.pid, signal.SIGUSR2)
    shop.skunq.says("SIGUSR2: new workers start")
    until(lambda: shop.skunq.log.count("started, process") == 3)  # the second could not start
    (shop.folder / "store.py").rename(shop.folder / "shop.py")

    assert shop.jobs.version.fire().wait(LIMIT) == 1
    os.kill(program.pid, signal.SIGTERM)
    assert program.wait(LIMIT) == 0


def test_nothing_is_lost_or_run_twice_however_often_workers_are_replaced(shop: Shop) -> None:
    numbers = range(600)
    program = shop.work("-r", "default", "default")
    runs = shop.jobs.count.fire_many([(number,) for number in numbers])
    for times in range(1, 6):
        until(lambda enough=100 * times: sum(shop.counted(numbers).values()) >= enough, LIMIT)
        os.kill(program.pid, signal.SIGUSR2)
        until(lambda most=times: shop.skunq.log.count("SIGUSR2: new workers") == most)

    runs.wait(2 * LIMIT)

    assert set(shop.counted(numbers).values()) == {1}
    assert len({pid for number in numbers for pid in shop.marks(f"count-{number}")}) >= 4
    until(lambda: shop.skunq.log.count("stopped") >= 10)
    assert "died" not in shop.skunq.log


def test_an_old_worker_that_is_killed_costs_the_run_that_it_executed(shop: Shop) -> None:
    numbers = range(100)
    program = shop.work()
    runs = shop.jobs.count.fire_many([(number,) for number in numbers])
    slow = shop.jobs.slow.fire("slow")
    until(lambda: shop.marks("slow"))
    os.kill(program.pid, signal.SIGUSR2)
    more = shop.jobs.count.fire_many([(number,) for number in range(100, 120)])

    more.wait(LIMIT)
    (old,) = shop.marks("slow")
    os.kill(old, signal.SIGKILL)
    until(lambda: len(shop.marks("slow")) == 2)
    (shop.folder / "go").touch()

    assert slow.wait(LIMIT) == 1
    assert slow.attempts == 2
    assert runs.state == "succeeded"
    assert set(shop.counted(range(120)).values()) == {1}


def test_a_pool_that_is_killed_while_it_reloads_loses_nothing(shop: Shop) -> None:
    numbers = range(200)
    program = shop.work("--lease", "1s")
    runs = shop.jobs.count.fire_many([(number,) for number in numbers])
    slow = shop.jobs.slow.fire("slow")
    until(lambda: sum(shop.counted(numbers).values()) >= 20)
    os.kill(program.pid, signal.SIGUSR2)
    shop.skunq.says("SIGUSR2: new workers")
    program.kill()
    program.wait(LIMIT)
    (shop.folder / "go").touch()

    shop.work("--lease", "1s")

    runs.wait(2 * LIMIT)
    slow.wait(LIMIT)
    counted = shop.counted(numbers)
    assert min(counted.values()) == 1
    assert max(counted.values()) <= 2  # what the killed pool had not committed


def test_schedules_are_those_of_the_new_code(shop: Shop) -> None:
    declared = "@queue.event(every={!r})\ndef restock():\n    pass\n"
    shop.write(1, declared.format("1h"))
    shop.work("--reload", "--import", "shop")
    queue = shop.jobs.queue

    for version, every in enumerate(("1h", "2h", "1h"), 1):  # the third is the first one again
        shop.write(version, declared.format(every))
        until(lambda every=every: [each.every for each in queue.schedules()] == [every])
    shop.write(4)

    until(lambda: queue.schedules() == [])


def test_a_handler_that_the_new_code_does_not_declare_is_called_no_more(shop: Shop) -> None:
    shop.write(1, "@queue.on('succeeded')\ndef told(run):\n    mark('told')\n")
    shop.work("--reload", "--import", "shop")
    shop.jobs.version.fire().wait(LIMIT)
    until(lambda: shop.marks("told"))

    shop.write(2)
    until(lambda: shop.jobs.version.fire().wait(LIMIT) == 2)
    until(lambda: [run for run in shop.jobs.queue.runs() if run.state in ("queued", "running")] == [])
    time.sleep(0.5)  # until the new code has told
    called = len(shop.marks("told"))
    for _ in range(3):
        shop.jobs.version.fire().wait(LIMIT)
    until(lambda: [run for run in shop.jobs.queue.runs() if run.state in ("queued", "running")] == [])

    assert len(shop.marks("told")) == called


def test_an_error_within_a_reload_is_not_hidden(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    with WorkerPool(shop.jobs.queue) as pool:
        assert shop.jobs.version.fire().wait(LIMIT) == 1
        assert pool._engine is not None
        monkeypatch.setattr(pool._engine._supervisor, "reload", lambda why: why.missing)

        with pytest.raises(AttributeError, match="missing"):
            pool.reload()


def test_a_program_reloads_its_pool(shop: Shop) -> None:
    with WorkerPool("demo", conn_url=shop.skunq.url) as pool:
        assert shop.jobs.version.fire().wait(LIMIT) == 1
        shop.write(2)
        os.utime(shop.folder / "shop.py", (1, 1))  # else Python's cache might take it for the file of this second
        pool.reload()
        until(lambda: shop.jobs.version.fire().wait(LIMIT) == 2)


def test_a_wrong_use_is_told(shop: Shop) -> None:
    with SkunkQueue("demo", "memory://") as queue, pytest.raises(WrongCall, match="leave out in_process"):
        WorkerPool(queue, in_process=True).reload()
    WorkerPool("demo", conn_url=shop.skunq.url).reload()  # nothing runs, so there is nothing to reload
    shop.skunq("work", "-q", "demo", "--reload", "--burst", code=2)
    assert "--reload has no meaning for --burst" in shop.skunq.complaint
