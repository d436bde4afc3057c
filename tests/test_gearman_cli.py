"""skunq gearman: workers and a bridge, run as people run them, with a real job_server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from gearman_servers import Gearmand, Peer, as_json
from pools import HERE, LIMIT, until
from programs import find

from skunkqueue import SkunkQueue
from skunkqueue.envelope import Filter, State
from skunkqueue.gearman.protocol import PacketType

SKUNQ = [sys.executable, "-m", "skunkqueue.cli"]


def environment(folder: Path) -> dict[str, str]:
    url = f"sqlite:///{folder}/runs.db"
    return {**os.environ, "PYTHONPATH": str(HERE), "MARKS": str(folder), "SKUNKQUEUE_URL": url}


@contextmanager
def started(folder: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command, with its log in a file of the folder; stopped gently afterwards."""
    with (folder / f"{words[0]}.log").open("ab") as log:
        process = subprocess.Popen(
            [*SKUNQ, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, env=environment(folder)
        )
    try:
        yield process
        process.terminate()
        assert process.wait(LIMIT) == 0, (folder / f"{words[0]}.log").read_text()
    finally:
        process.kill()
        process.wait(LIMIT)


def refused(folder: Path, *words: str) -> str:
    """What a command says that ends with a sentence."""
    said = subprocess.run(
        [*SKUNQ, "gearman", *words],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=2 * LIMIT,
        cwd=folder, env=environment(folder),
    )  # fmt: skip
    assert said.returncode in (1, 2), said
    assert "Traceback" not in said.stderr
    return said.stderr


def test_workers_named_on_the_command_line_serve(tmp_path: Path, job_server: Gearmand, gearman_peer: Peer) -> None:
    words = ("gearman", "work", "-s", job_server.server, "--workers", "2", "gearman_jobs:Plain", "gearman_jobs:Loud")
    with started(tmp_path, *words):
        assert gearman_peer.call("plain_add", as_json(a=1, b=2)) == b"3"
        assert gearman_peer.call("loud_say", b"hey").startswith(b"HEY")
        log = tmp_path / "gearman.log"
        until(lambda: log.read_text().count("started, process") == 4)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["work", "gearman_jobs"], "MODULE:NAME"),
        (["work", "gearman_jobs:Nobody"], "there is no Nobody in gearman_jobs"),
        (["work", "no_such_module:Worker"], "cannot import no_such_module"),
        (["work", "gearman_jobs:main"], "is no BaseWorker subclass"),
        (["work", "-s", "host:port", "gearman_jobs:Plain"], "a port is a number"),
        (["bridge", "-q", "nothing", "--import", "gearman_bridged"], "there is no job of the queue nothing"),
        (["bridge", "-q", "bridged"], "--import"),
    ],
)
def test_a_wrong_call_is_one_sentence(tmp_path: Path, words: list[str], sentence: str) -> None:
    assert sentence in refused(tmp_path, *words)


def test_a_bridge_lets_any_client_call_the_jobs_of_a_queue(
    tmp_path: Path, job_server: Gearmand, gearman_peer: Peer
) -> None:
    gearman = find("gearman", "gearman-tools")
    bridge = ("gearman", "bridge", "-s", job_server.server, "-q", "bridged", "--import", "gearman_bridged")
    with started(tmp_path, *bridge), started(tmp_path, "work", "-q", "bridged"):
        assert gearman_peer.call("add", as_json(a=1, b=2)) == b"3"
        assert gearman_peer.call("add", b"[1]") == b"11"
        assert gearman_peer.call("gearman_bridged:add", as_json(a=1)) == b"11"
        with pytest.raises(RuntimeError, match=r"^ValueError: no good$"):
            gearman_peer.call("fail", b"")
        with pytest.raises(RuntimeError, match=r"^TypeError: "):
            gearman_peer.call("add", as_json(c=1))
        with pytest.raises(RuntimeError, match=r"^TypeError: .*JSON object"):
            gearman_peer.call("add", b"5")
        assert job_server.status("other") == (0, 0, 0)
        said = subprocess.run(
            [gearman, "-h", "127.0.0.1", "-p", str(job_server.port), "-f", "add", '{"a": 20, "b": 22}'],
            capture_output=True, text=True, timeout=LIMIT,
        )  # fmt: skip
        assert said.stdout == "42"


def test_a_bridge_tells_the_progress_of_a_job_and_that_it_was_cancelled(
    tmp_path: Path, job_server: Gearmand, gearman_peer: Peer
) -> None:
    bridge = ("gearman", "bridge", "-s", job_server.server, "-q", "bridged", "--import", "gearman_bridged")
    with started(tmp_path, *bridge), started(tmp_path, "work", "-q", "bridged"):
        handle = gearman_peer.submit("steps", b"")
        assert gearman_peer.next().args == (handle, b"1", b"4")
        (tmp_path / "go-on").touch()
        assert gearman_peer.ended().args[1] == b'"there"'

        gearman_peer.submit("slow", as_json(seconds=60))
        until(lambda: (tmp_path / "slow").exists())
        with SkunkQueue("bridged", f"sqlite:///{tmp_path}/runs.db") as queue:
            running = queue.store.find(Filter("bridged", None, State.RUNNING), now=0.0)
            queue.cancel_all([record.id for record in running])
        ended = gearman_peer.ended()
        assert ended.type is PacketType.WORK_EXCEPTION
        assert ended.args[1].startswith(b"JobCancelled: ")


@pytest.mark.slow
def test_a_call_whose_bridge_dies_finds_its_run_through_another(
    tmp_path: Path, job_server: Gearmand, gearman_peer: Peer
) -> None:
    words = ("gearman", "bridge", "-s", job_server.server, "-q", "bridged", "--import", "gearman_bridged")
    with started(tmp_path, "work", "-q", "bridged"):
        with pytest.raises(AssertionError), started(tmp_path, *words) as first:
            gearman_peer.submit("steps", b"")
            assert gearman_peer.next().type is PacketType.WORK_STATUS
            first.send_signal(signal.SIGKILL)
            first.wait(LIMIT)
        with started(tmp_path, *words):
            assert gearman_peer.next().type is PacketType.WORK_STATUS  # the other bridge has found the run
            (tmp_path / "go-on").touch()
            assert gearman_peer.ended().args[1] == b'"there"'

    assert (tmp_path / "steps").read_text() == "x"
