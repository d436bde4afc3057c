"""Jobs of a queue that Gearman clients call, and that Gearman workers serve."""

from __future__ import annotations

import os

from skunkqueue import SkunkQueue

queue = SkunkQueue("shared", os.environ["SHARED_URL"])


@queue.event(name="add", routes=["add"])
def add(a: int, b: int = 0) -> int:
    """Their sum."""
    return a + b


@queue.event(name="size", routes=["size"])
def size(data: bytes) -> bytes:
    """How many bytes there are, as bytes."""
    return str(len(data)).encode()


@queue.event(name="broken", routes=["broken"])
def broken() -> None:
    raise ValueError("on purpose")


@queue.event(routes=["elsewhere"])
def elsewhere(**arguments: object) -> None:
    """Served by a worker in another language."""
    raise AssertionError(arguments)
