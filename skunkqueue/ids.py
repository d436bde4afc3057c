"""The ids of runs, which sort by time, and the tokens that prove claims."""

from __future__ import annotations

import os
import threading
from typing import Final

from skunkqueue.clock import ticks
from skunkqueue.errors import WrongCall
from skunkqueue.printable import said

MOST_ID: Final = 200
"""Characters of an id; ours have 28."""


def check_id(id: object) -> str:
    """Check the id of a run, as people give it. Raises WrongCall for what cannot be the id of a run."""
    if isinstance(id, str) and 0 < len(id) <= MOST_ID and id.isprintable():  # this also excludes lone surrogates
        return id
    raise WrongCall(f"the id of a run is a line of text, like 0196f3a2b8c15f0e6d1b2c3d4e5f; got {said(id)}")


FAR_AHEAD: Final = 10_000 << 64
"""Ten seconds, as ids count: ids count on from a later time than theirs, unless the clock was set back by more."""
MOST_AHEAD: Final = 10_000

ahead: Final[dict[str, float]] = {}
"""Ids that count on from a later time, as another thread or another clock was ahead: for which time each was made."""


class _Ids:
    """Ids of 28 hexadecimal digits: 12 for the milliseconds, 16 that start at random and count up."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.last = 0
        self.random = b""
        self.made: dict[str, float] = {}

    def draw(self, now: float) -> str:
        with self.lock:
            first = int(now * 1000) << 64
            if first > self.last or self.last - first > FAR_AHEAD:
                self.random = self.random[8:] or os.urandom(512)  # a call for each id would cost more than the rest
                self.last = first | (int.from_bytes(self.random[:8], "big") >> 1)
                id = f"{self.last:028x}"
            else:
                self.last += 1
                id = f"{self.last:028x}"
                if self.last - first >> 64:
                    if len(ahead) >= MOST_AHEAD:
                        ahead.clear()
                    ahead[id] = now
            if len(self.made) >= MOST_MADE:
                self.made.clear()
            self.made[id] = ticks()
            return id


_ids = _Ids()


def new_id(now: float) -> str:
    """A run's id. Ids sort by time and never collide; within a process they ascend, unless its clock is set back."""
    return _ids.draw(now)


MOST_MADE: Final = 1000
"""Ids of which it is known when they were made."""


def when_made(id: str) -> float | None:
    """By ``ticks``, when ``new_id`` made this id in this process; None unless it is one of the last ones.

    Nobody can have used the id before that moment.
    """
    return _ids.made.get(id)


def _forget_ids() -> None:
    global _ids
    _ids = _Ids()


# A forked process would otherwise count on from the same number as its parent.
os.register_at_fork(after_in_child=_forget_ids)


def new_token() -> str:
    """A secret that proves a claim."""
    return os.urandom(12).hex()
