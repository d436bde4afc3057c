"""Tells the pool which schedules and handlers the code declares that this worker process has imported."""

from __future__ import annotations

from collections.abc import Callable

import msgpack

from skunkqueue.schedules.registry import registry
from skunkqueue.worker import frames


class Announcer:
    """``write`` writes a frame to the pool; ``queue`` is the name of its queue."""

    def __init__(self, write: Callable[[bytes], None], queue: str) -> None:
        self._write = write
        self._queue = queue
        self._seen = 0

    def tell(self) -> None:
        """Tell, if something was imported since the last time."""
        if registry.version == self._seen:
            return
        self._seen = registry.version
        self._write(frames.plain(frames.SCHEDULES, 0, self._announcement()))

    def _announcement(self) -> bytes:
        if not registry.jobs and not registry.handlers:
            data: bytes = msgpack.packb((sorted(registry.modules), [], [], []))
            return data
        from skunkqueue.schedules.declared import announced_here, packed  # late: few workers have schedules

        return packed(announced_here(self._queue))
