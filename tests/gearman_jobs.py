"""Workers and runners for the tests of Gearman: python -m gearman_jobs KIND HOST:PORT [OPTIONS as a Python dict]."""

from __future__ import annotations

import ast
import os
import signal
import sys
import time
from pathlib import Path

from skunkqueue.gearman import BaseWorker, DataEncoder, GearmanWorker, WorkRunner


class Plain(BaseWorker):
    """What the README shows, and more."""

    name = "plain"
    traces = Path(os.environ.get("MARKS", "."))

    def setUp(self) -> None:
        self.ready = os.getpid()
        failing = self.traces / "fail-set-up"
        if failing.exists():
            failing.unlink()
            raise RuntimeError("not this time")

    def task_echo(self, text: str, double: bool = False) -> str:
        "Echoes the text"
        return text + text if double else text

    def task_add(self, a: int, b: int) -> int:
        """
        Adds A and B together
        """
        return a + b

    def task_many(self, a, *, must, may=(1, 2), **rest):
        return [a, must, may, rest]

    def task_raise(self) -> None:
        raise ValueError("no good")

    def task_strange(self) -> object:
        return object()

    def task_pid(self) -> list[int]:
        return [os.getpid(), self.ready]

    def task_sleep(self, seconds: float, mark: str = "mark") -> str:
        (self.traces / f"{mark}-began-{time.monotonic_ns()}").touch()
        for step in range(10):
            self.send_status(step, 10)
            time.sleep(seconds / 10)
        (self.traces / f"{mark}-ended-{time.monotonic_ns()}").touch()
        return "slept"

    def task_parts(self, sizes: list[int]) -> str:
        for size in sizes:
            self.send_data("x" * size)
        return "whole"

    def task_die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def task_exit(self) -> None:
        os._exit(3)


class Upper(DataEncoder):
    """Bytes in capitals, as a serialization that is not JSON; the arguments are one text."""

    @classmethod
    def encode(cls, value: object) -> bytes:
        return str(value).upper().encode()

    @classmethod
    def decode(cls, data: bytes) -> object:
        return {"text": data.decode()}


class UpperWorker(GearmanWorker):
    data_encoder = Upper


class Loud(BaseWorker):
    name = "loud"
    work_class = UpperWorker

    def task_say(self, text: str) -> str:
        return f"{text} in {os.getpid()}"


class Second(BaseWorker):
    name = "second"

    def task_pid(self) -> int:
        return os.getpid()


def main() -> None:
    kind, server = sys.argv[1:3]
    options = ast.literal_eval(sys.argv[3]) if len(sys.argv) > 3 else {}
    if kind == "start":
        Plain(hosts=[server]).start()
        print("came back", flush=True)
        return
    start = {name: options.pop(name) for name in ("threads", "keepAlive") if name in options}
    classes = {"Plain": Plain, "Loud": Loud, "Second": Second}
    found = [classes[name] for name in options.pop("classes", ["Plain"])]
    WorkRunner(found, hosts=server.split(","), **options).start(**start)
    print("came back", flush=True)


if __name__ == "__main__":
    main()
