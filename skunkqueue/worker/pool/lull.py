"""When a worker takes nothing new, so that its runs end and one that is to run alone can start."""

from __future__ import annotations

from typing import Final

FIRST: Final = 0.25
"""Seconds of the first lull; each is twice as long as the one before, so that one is long enough for any runs."""
GO_ON: Final = 4
"""Then it takes runs for so many times as long, so that its places are empty for a fifth of the time at most."""


class Lull:
    """The lulls of one worker, while a run waits in it that is to run alone. Times are ticks."""

    def __init__(self) -> None:
        self.over()

    def over(self) -> None:
        """The run has started: the next one begins with a short lull again."""
        self._length = FIRST
        self._from = 0.0
        self._asked = 0.0

    def is_on(self, now: float) -> bool:
        """Whether nothing new is to be taken now. Asked only while a run waits, and again when that may change."""
        if now - self._asked > (1 + GO_ON) * self._length:  # none was waiting for some time
            self._from = now
        self._asked = now
        while now >= self._from + (1 + GO_ON) * self._length:
            self._from += (1 + GO_ON) * self._length
            self._length *= 2
        return now < self._from + self._length

    def until(self, now: float) -> float:
        """When that changes."""
        length = self._length if self.is_on(now) else (1 + GO_ON) * self._length
        return self._from + length
