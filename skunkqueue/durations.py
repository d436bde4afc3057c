"""Durations as people write them, seconds or a timedelta, as the floats that everything inside uses."""

from __future__ import annotations

import math
from datetime import timedelta

from skunkqueue.errors import WrongCall


def seconds(value: object, what: str) -> float:
    """A duration in seconds, never negative and never without end. ``what`` names it in the WrongCall it may raise."""
    if isinstance(value, timedelta):
        number = value.total_seconds()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        number = _as_float(value)
    else:
        raise WrongCall(f"{what} is a number of seconds or a timedelta; got {value!r}")
    if not math.isfinite(number) or number < 0:
        raise WrongCall(f"{what} is a number of seconds from 0 up; got {value!r}")
    return number


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf
