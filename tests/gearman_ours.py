"""Our own job server for the tests, as a process of its own, so that it can be killed; and in this one."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

from gearman_servers import Gearmand
from pools import LIMIT, until
from programs import answers, free_port


class OurServer(Gearmand):
    """``skunq gearman serve``; ``start`` again after ``stop`` or ``kill`` keeps its port and its store."""

    def __init__(self, url: str, *options: str, port: int | None = None) -> None:
        self.url = url
        self.options = options
        self.port = port or free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.lines: list[str] = []

    def start(self) -> OurServer:
        command = [sys.executable, "-m", "skunkqueue.cli", "gearman", "serve"]
        self.process = subprocess.Popen(
            [*command, "--url", self.url, "--port", str(self.port), *self.options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        threading.Thread(target=self._read, args=(self.process,), daemon=True).start()
        until(lambda: answers(self.port), message=lambda: f"our server did not come up: {self.lines}")
        return self

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            self.lines.append(line.decode())
        process.stderr.close()

    def stop(self, number: int = signal.SIGINT) -> None:
        super().stop(number)


def in_process(**options: Any) -> Any:
    """Our server on a thread of this process, on a free port."""
    from skunkqueue.gearman import GearmanServer

    options.setdefault("log", io.StringIO())
    return GearmanServer(options.pop("url", None), 0, **options)


def command(*words: str) -> Sequence[str]:
    return [sys.executable, "-m", "skunkqueue.cli", *words]


__all__ = ["LIMIT", "OurServer", "command", "in_process"]
