"""Durations: people write seconds, a timedelta or a text like "1h30m"; everything inside uses seconds as floats."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from skunkqueue.errors import WrongCall
from skunkqueue.printable import said

Duration = float | timedelta | str
"""Seconds, a timedelta, or a text of numbers with units: ``"500ms"``, ``"30s"``, ``"5m"``, ``"1h30m"``, ``"7d"``."""

LONGEST: Final = 1e10
"""Seconds, three centuries. Longer ones are reduced to this, so that a time plus a duration can always be stored."""

UNITS: Final[Mapping[str, float]] = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}

_TEXT: Final = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhdw]))+", re.ASCII)
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])", re.ASCII)


def seconds(value: object, what: str) -> float:
    """A duration in seconds, never negative; at most LONGEST. ``what`` names it in the WrongCall it may raise."""
    number = _seconds(value, what)
    if number < 0:
        raise WrongCall(f"{what} is a number of seconds from 0 up; got {said(value)}")
    return min(number, LONGEST)


def seconds_left(value: object, what: str, most: float = LONGEST) -> float:
    """Seconds from now on, at most ``most``; 0 if negative, as for a time in the past. Raises WrongCall."""
    return min(max(0.0, _seconds(value, what)), most)


def is_duration(text: str) -> bool:
    """Whether a text is a duration: ``90s``, ``1h30m``, ``1h 30m``."""
    return _TEXT.fullmatch(text.replace(" ", "")) is not None


def _seconds(value: object, what: str) -> float:
    if isinstance(value, timedelta):
        number = value.total_seconds()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        number = _as_float(value)
    elif isinstance(value, str) and is_duration(value):
        number = sum(float(count) * UNITS[unit] for count, unit in _PART.findall(value.replace(" ", "")))
    else:
        raise WrongCall(f'{what} is a number of seconds, a timedelta or a text like "1h30m"; got {said(value)}')
    if not math.isfinite(number):
        raise WrongCall(f"{what} is a number of seconds from 0 up; got {said(value)}")
    return number


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def span(seconds: float) -> str:
    """How long something took, for people: ``0.25 ms``, ``30.1 s``, ``5m 12s``, ``2h 05m``, ``3d 4h``."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.2f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, left = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {left:02d}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02d}m" if hours < 48 else f"{hours // 24}d {hours % 24}h"


def age(seconds: float) -> str:
    """How long ago or ahead, in one unit: ``12s``, ``5m``, ``3h``, ``2d``."""
    for unit, least in (("d", 172800.0), ("h", 7200.0), ("m", 120.0)):
        if seconds >= least:
            return f"{int(seconds // UNITS[unit])}{unit}"
    return f"{max(0, int(seconds))}s"
