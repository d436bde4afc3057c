"""Gearman servers of our own for measurements: gearmand and ours, each in a process, on a free port."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

BIN = Path(sys.executable).parent


def find(program: str, package: str) -> str:
    """A program. The server in Perl is a gearmand too, elsewhere."""
    found = shutil.which(program, path="/usr/sbin:/usr/local/sbin") or shutil.which(program)
    if found is None:
        raise SystemExit(f"this part wants {program}, which is not installed: apt install {package}")
    return found


@contextmanager
def gearmand() -> Iterator[int]:
    """The server in C; gives its port."""
    port = free_port()
    program = find("gearmand", "gearman-job-server")
    with running([program, "--listen=127.0.0.1", f"--port={port}", "--log-file=none"]):
        wait_for(port)
        yield port


@contextmanager
def ours(url: str) -> Iterator[int]:
    """``skunq gearman serve`` on a store; gives its port."""
    port = free_port()
    with running([str(BIN / "skunq"), "gearman", "serve", "--url", url, "--port", str(port)]):
        wait_for(port)
        yield port


@contextmanager
def running(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process, ended with all that it started."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)


def wait_for(port: int) -> None:
    """Until something listens there."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise SystemExit(f"no Gearman server came up on port {port}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
