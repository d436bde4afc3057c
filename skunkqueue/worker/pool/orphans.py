"""Reaps processes that jobs left behind, if these become children of the pool: for instance as PID 1 in a container."""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict
from collections.abc import Collection
from pathlib import Path
from typing import Final

from skunkqueue.clock import ticks

EVERY: Final = 5.0
"""Seconds between two checks for processes that have ended."""
MOST_GROUPS: Final = 1000
FOREVER: Final = float("inf")


class Orphans:
    """Reaps only processes of the groups that workers led. For any other child, somebody else waits."""

    def __init__(self) -> None:
        self._groups: OrderedDict[int, None] = OrderedDict()
        self._look_at = ticks() + EVERY if inherits_orphans() else FOREVER

    def note(self, worker: int) -> None:
        """Note a worker process, which leads a group of its own."""
        self._groups[worker] = None
        if len(self._groups) > MOST_GROUPS:
            self._groups.popitem(last=False)

    def until(self) -> float:
        """Ticks of the next check."""
        return self._look_at

    def reap(self, workers: Collection[int]) -> None:
        """Reap processes that have ended, if a check is due; never one of ``workers``, whose deaths are judged."""
        if ticks() < self._look_at:
            return
        self._look_at = ticks() + EVERY
        for pid in _children():
            if pid not in workers and self._is_left_behind(pid):
                with contextlib.suppress(OSError):
                    os.waitpid(pid, os.WNOHANG)

    def _is_left_behind(self, pid: int) -> bool:
        with contextlib.suppress(OSError):
            return os.getpgid(pid) in self._groups
        return False


def inherits_orphans() -> bool:
    """Whether processes whose parent ends become children of this one."""
    if os.getpid() == 1:
        return True
    import ctypes

    found = ctypes.c_int(0)
    try:
        ctypes.CDLL(None).prctl(37, ctypes.byref(found), 0, 0, 0)  # PR_GET_CHILD_SUBREAPER
    except (OSError, AttributeError):  # not on Linux
        return False
    return bool(found.value)


def _children() -> list[int]:
    """The children of this process, whichever thread started them."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path("/proc/self/task").iterdir():
            with contextlib.suppress(OSError):  # a thread that has just ended
                found += map(int, (task / "children").read_text().split())
    return found
