"""GearmanJob: a job as the function gets that does it; and how an exception is told to its client."""

from __future__ import annotations

from typing import Any

from skunkqueue.gearman.protocol import PacketType, request
from skunkqueue.gearman.worker_connection import Assigned, WorkerConnection


class GearmanJob:
    """A job as its function gets it. ``data`` is what the worker's data encoder made of its bytes."""

    def __init__(self, assigned: Assigned, connection: WorkerConnection | None = None) -> None:
        self.task: str = assigned.function.decode("utf-8", "surrogateescape")
        self._handle = assigned.handle
        self.handle: str = assigned.handle.decode("utf-8", "surrogateescape")
        self.unique: str = assigned.unique.decode("utf-8", "surrogateescape")
        self.data: Any = assigned.data
        self.connection = connection
        self.generation: int = 0 if connection is None else connection.generation

    @property
    def is_ours(self) -> bool:
        """Whether the connection that it came through still stands; else its server has given it to another worker."""
        connection = self.connection
        return connection is not None and connection.is_up and connection.generation == self.generation

    def __repr__(self) -> str:
        return f"<GearmanJob {self.task} {self.handle}>"

    def packet(self, type: PacketType, *args: bytes | int) -> bytes:
        """A packet about this job."""
        found = [arg if isinstance(arg, bytes) else str(arg).encode() for arg in args]
        return request(type, self._handle, *found)


def described(error: BaseException) -> str:
    """An exception in one line, as clients get it."""
    try:
        text = str(error)
    except Exception:
        text = "(its message cannot be had)"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
