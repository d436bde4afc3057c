"""A redis-server of our own: on a free port, in a folder of its own, with the persistence asked for."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import redis

PERSISTENCE: Mapping[str, tuple[str, ...]] = {
    "none": ("--appendonly", "no"),
    "everysec": ("--appendonly", "yes", "--appendfsync", "everysec"),
    "always": ("--appendonly", "yes", "--appendfsync", "always"),
}

OVER = "over"


class Server:
    """One server, from entering to leaving its ``with``."""

    def __init__(self, persistence: str = "none") -> None:
        self.options = PERSISTENCE[persistence]
        self.folder = ""
        self.url = ""
        self.pid = 0

    def __enter__(self) -> Server:
        program = shutil.which("redis-server") or shutil.which("valkey-server")
        if program is None:
            raise SystemExit("this part wants redis-server, which is not installed: apt install redis-server")
        port = _free_port()
        self.folder = tempfile.mkdtemp(prefix="skunkqueue-bench-redis-")
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", self.folder, "--save", ""]
        self._process = subprocess.Popen([*command, *self.options], stdout=subprocess.DEVNULL)
        self.pid = self._process.pid
        self.url = f"redis://127.0.0.1:{port}/0"
        self.client = redis.Redis(port=port, socket_timeout=None)  # an idle server has nothing to say for long
        self._await()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait(60)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _await(self) -> None:
        for _ in range(1500):
            try:
                self.client.ping()
            except redis.ConnectionError:
                time.sleep(0.02)
            else:
                return
        raise SystemExit("redis-server did not start")

    def empty(self) -> None:
        """Forget everything."""
        self.client.flushall()

    def info(self, section: str) -> dict[str, Any]:
        """What the server says about itself."""
        found: dict[str, Any] = self.client.info(section)  # type: ignore[assignment]
        return found

    def commands(self, seconds: float) -> int:
        """How many commands clients send within so many seconds; what scripts call is not counted."""
        with self.client.monitor() as monitor:
            timer = threading.Timer(seconds, self.client.echo, [OVER])
            timer.start()
            seen = 0
            for each in monitor.listen():
                if each["command"] == f"ECHO {OVER}":
                    break
                seen += each["client_type"] != "lua"
        timer.join()
        return seen


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
