"""The demos, run as people run them: as scripts of their own, from two terminals, in either order."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pools import LIMIT, until

DEMO = Path(__file__).parent.parent / "demo"


@contextmanager
def started(name: str, folder: Path) -> Iterator[Path]:
    """A demo in another terminal, stopped gently afterwards; gives what it says as a file."""
    said = folder / f"{name}.log"
    with said.open("w") as log:
        process = subprocess.Popen([sys.executable, DEMO / name], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield said
        process.terminate()
        assert process.wait(LIMIT) == 0, said.read_text()
    finally:
        process.kill()
        process.wait(LIMIT)


def run(name: str) -> str:
    """Run a demo to its end; gives what it said."""
    said = subprocess.run(
        [sys.executable, DEMO / name], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=3 * LIMIT
    )
    assert said.returncode == 0, said.stderr
    return said.stdout


def up(said: Path, workers: int = 1) -> None:
    until(lambda: said.read_text().count("started, process") == workers, message=f"no workers: {said.read_text()}")


def test_a_job_fired_before_its_worker_starts_gives_its_result(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-u", DEMO / "direct.py"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("fired")

    with started("direct_worker.py", tmp_path) as said:
        result, _ = process.communicate(timeout=LIMIT)

        assert result == "result 9\nstate succeeded\n"
        assert process.returncode == 0
        until(lambda: "add in" in said.read_text() and ": 9\n" in said.read_text())


def test_a_job_fired_after_its_worker_started_gives_its_result(tmp_path: Path) -> None:
    with started("direct_worker.py", tmp_path) as said:
        up(said)

        assert run("direct.py").endswith("result 9\nstate succeeded\n")


def test_a_job_for_later_runs_later(tmp_path: Path) -> None:
    with started("direct_worker.py", tmp_path):
        first, second = run("later.py").splitlines()

    assert first.endswith(" scheduled")
    assert second.endswith(" time for tea")
    assert second[:8] != first[:8]


def test_a_broadcast_reaches_every_worker(tmp_path: Path) -> None:
    with started("broadcast_worker.py", tmp_path) as said:
        up(said, 3)

        heard = run("broadcast.py")

        assert heard.startswith("3 workers are alive\n")
        until(lambda: said.read_text().count("heard: skunks have queues") >= 3)
        assert said.read_text().count("heard: skunks have queues") == 3, said.read_text()


def test_nothing_is_lost_where_a_worker_is_killed_in_the_middle() -> None:
    said = run("nothing_lost.py")

    assert "100%" in said
    assert "killed worker process" in said
    assert re.search(r"as their worker had died: [01]$", said, re.MULTILINE)
    assert "240 fired, 240 succeeded, 0 lost: nothing lost" in said
    work, took = map(int, re.findall(r"(\d+) s of work done in (\d+) s", said)[0])
    assert work >= 36
    assert took > 0
