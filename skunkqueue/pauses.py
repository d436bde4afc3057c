"""How long to wait between tries to reach a store that is away."""

from __future__ import annotations

from typing import Final

FIRST: Final = 0.05
LONGEST: Final = 0.5
"""Seconds. Whoever waits for a store notices within this time that it is back."""


def pause_after(failures: int, most: float = LONGEST) -> float:
    """Seconds to wait after so many failures in a row: growing up to ``most``, and random within the upper half.

    The randomness keeps many clients that lost one server at the same time from returning at the same time.
    """
    from random import uniform  # late: most programs never ask

    longest = min(most, FIRST * 2.0 ** min(failures - 1, 10))
    return uniform(longest / 2, longest)  # noqa: S311 - jitter is no secret
