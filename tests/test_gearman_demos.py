"""The Gearman demos, run as people run them, with a real job_server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from gearman_servers import Gearmand, Peer, as_json, serving
from pools import LIMIT, until
from test_demo import DEMO


@pytest.fixture(params=["gearmand", "ours"])
def job_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Gearmand]:
    with serving(request.param, tmp_path) as server:
        yield server


@contextmanager
def started(name: str, server: str, folder: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A demo in another terminal; what it says is in the folder."""
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, DEMO / name, server, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait(LIMIT)


@pytest.mark.parametrize("name", ["gearman_worker.py", "gearman_runner.py"])
def test_a_client_calls_what_a_worker_exports(name: str, job_server: Gearmand, tmp_path: Path) -> None:
    with started(name, job_server.server, tmp_path) as worker:
        said = subprocess.run(
            [sys.executable, DEMO / "gearman_client.py", job_server.server],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=2 * LIMIT,
        )  # fmt: skip
        worker.terminate()
        assert worker.wait(LIMIT) == 0

    lines = said.stdout.splitlines()
    assert lines[:2] == ["This is text", "25"], said.stderr
    assert lines[-2:] == ["This is textThis is text", "True"]
    assert "'description': 'Adds A and B together'" in said.stdout


def test_a_cached_answer_is_worked_out_once(job_server: Gearmand, gearman_peer: Peer, tmp_path: Path) -> None:
    with started("gearman_cached.py", job_server.server, tmp_path, f"sqlite:///{tmp_path}/cache.db") as worker:
        answers = [gearman_peer.call("myworker_echo", as_json(text="a", double=True)) for _ in range(3)]
        described = gearman_peer.call("myworker_help", b"")
        worker.terminate()
        assert worker.wait(LIMIT) == 0

    assert answers == [b'"aa"'] * 3
    assert (tmp_path / "gearman_cached.py.log").read_text() == "working on a\n"
    assert b"Echoes the text" in described and b'"double": {"default": false' in described


def test_commands_are_answered_until_one_stops_the_worker(
    job_server: Gearmand, gearman_peer: Peer, tmp_path: Path
) -> None:
    with started("gearman_commands.py", job_server.server, tmp_path) as worker:
        assert gearman_peer.call("queue", b'{"command": "reverse", "message": "Hello"}') == b'"olleH"'
        assert gearman_peer.call("queue", b'{"command": "other"}') == b"null"
        assert gearman_peer.call("queue", b'{"command": "stop"}') == b"null"
        assert worker.wait(LIMIT) == 0
    assert (tmp_path / "gearman_commands.py.log").read_text() == "Stopping gcmd...\n"


def test_an_error_in_a_command_ends_the_worker_with_it(
    job_server: Gearmand, gearman_peer: Peer, tmp_path: Path
) -> None:
    with started("gearman_commands.py", job_server.server, tmp_path) as worker:
        with pytest.raises(RuntimeError, match="Missing 'message' key"):
            gearman_peer.call("queue", b'{"command": "reverse"}')
        assert worker.wait(LIMIT) == 0
    assert (tmp_path / "gearman_commands.py.log").read_text().endswith("\nAttributeError: Missing 'message' key\n")


def test_a_queue_dispatches_what_another_encoder_reads(
    job_server: Gearmand, gearman_peer: Peer, tmp_path: Path
) -> None:
    with started("gearman_dispatch.py", job_server.server, tmp_path) as worker:
        assert gearman_peer.call("queue", b"command: reverse") == b"answer: olleH"
        assert gearman_peer.call("queue", b"command: ignored") == b"answer: None"
        assert gearman_peer.call("queue", b"nothing: here") == b"answer: None"
        gearman_peer.submit("queue", b"command: stop")
        assert worker.wait(LIMIT) == 0
    until(lambda: job_server.status("queue")[2] == 0)
