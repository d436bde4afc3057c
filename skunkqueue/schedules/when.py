"""The times of a schedule: cron text in a time zone, a fixed interval, or an interval that follows what happened.

Pure arithmetic on seconds since the epoch. A fixed one can say every tick in advance; the others are planned anew from
each run's end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Final, NamedTuple

from skunkqueue.durations import LONGEST, UNITS, is_duration, seconds
from skunkqueue.errors import WrongCall
from skunkqueue.printable import said

SHORTEST: Final = 1.0
"""The shortest interval, in seconds."""

UTC_NAME: Final = "UTC"
_BACK: Final = (3600.0, 86400.0, 32 * 86400.0, 367 * 86400.0, 9 * 367 * 86400.0)
"""How far to look back for the latest tick of a cron text, in seconds: it is nearly always close."""

_WRONG: Final = 'every is a duration (timedelta(hours=6), 90, "90s"), cron text ("0 7 * * mon-fri"), or a function'


class Interval(NamedTuple):
    """Every so many seconds, counted from the schedule's anchor, so that a restart does not shift it."""

    every: float

    def first(self, anchor: float) -> float:
        return anchor + self.every

    def after(self, time: float, anchor: float) -> float:
        """The first tick later than this time."""
        return anchor + self.every * (self._number(time, anchor) + 1)

    def latest(self, start: float, now: float, anchor: float) -> float:
        """The last tick up to now; at least ``start``, which is one."""
        return max(start, anchor + self.every * self._number(now, anchor))

    def _number(self, time: float, anchor: float) -> int:
        """How many intervals have passed; exact, also where the division is rounded."""
        number = math.floor((time - anchor) / self.every)
        while anchor + self.every * number > time:
            number -= 1
        while anchor + self.every * (number + 1) <= time:
            number += 1
        return number

    def __str__(self) -> str:
        return told_seconds(self.every)


class Cron(NamedTuple):
    """Cron text, read in a time zone by the rules of Debian's cron, also where daylight saving begins and ends."""

    text: str
    zone: str = UTC_NAME

    def first(self, anchor: float) -> float:
        return self.after(anchor, anchor)

    def after(self, time: float, anchor: float) -> float:
        """The first tick later than this time; infinite if there is none."""
        return next(self._ticks(time), math.inf)

    def latest(self, start: float, now: float, anchor: float) -> float:
        """The last tick up to now; at least ``start``, which is one."""
        for back in _BACK:
            found = start
            for tick in self._ticks(max(start, now - back)):
                if tick > now:
                    break
                found = tick
            if found > start or now - back <= start:
                return found
        return start

    def _ticks(self, after: float) -> Iterator[float]:
        from cronsim import CronSim

        for moment in CronSim(self.text, datetime.fromtimestamp(math.floor(after), zone_of(self.zone))):
            tick = moment.timestamp()
            if tick > after:  # an hour that comes twice is walked through once more
                yield tick
                after = tick

    def __str__(self) -> str:
        return self.text


class Adaptive(NamedTuple):
    """An interval between ``least`` and ``most``, counted from the end of one run to the next.

    After a failure it is ``factor`` times as long; after news (the job returned something that counts as true) so many
    times shorter; where nothing was new it grows slowly. Durations are seconds or timedeltas.
    """

    least: float | timedelta
    most: float | timedelta
    factor: float = 2.0

    def next(self, interval: float, *, failed: bool, news: bool) -> float:
        """The interval after one of that length, in seconds."""
        least, most = seconds(self.least, "least"), seconds(self.most, "most")
        by = self.factor if failed else 1 / self.factor if news else self.factor**0.25
        return min(max(interval * by, least), most)

    def __str__(self) -> str:
        least, most = seconds(self.least, "least"), seconds(self.most, "most")
        return f"{told_seconds(least)} to {told_seconds(most)}"


class Paced(NamedTuple):
    """A function of the job's author says after each run when to run next; a worker calls it."""

    def __str__(self) -> str:
        return "by a function"


When = Interval | Cron | Adaptive | Paced
Every = str | float | timedelta | Adaptive | Callable[[Any], float | timedelta]
"""What people give as ``every``."""

_KINDS: Final[dict[str, type[Any]]] = {"interval": Interval, "cron": Cron, "adaptive": Adaptive, "paced": Paced}
_NAMES: Final = {kind: name for name, kind in _KINDS.items()}


def is_fixed(when: When) -> bool:
    """Whether its ticks depend on nothing but the clock."""
    return isinstance(when, Interval | Cron)


def packed(when: When) -> tuple[Any, ...]:
    """As values that MessagePack can hold."""
    return (_NAMES[type(when)], *when)


def unpacked(fields: Any) -> When:
    kind, *rest = fields
    found: When = _KINDS[kind](*rest)
    return found


# -- what people write -----------------------------------------------------------------------------------------------


def when_of(every: object, zone: object = None) -> When:
    """Read ``every`` and ``zone`` as people give them. Raises WrongCall."""
    if isinstance(every, str) and len(every.split()) > 1 and not is_duration(every):
        return _cron(every, zone)
    if zone is not None:
        raise WrongCall(f"zone is for cron text, which every is not; got every={said(every)}")
    if isinstance(every, str) and is_duration(every):
        return Interval(_shortest(seconds(every, "every")))
    if isinstance(every, Adaptive):
        return _adaptive(every)
    if isinstance(every, int | float | timedelta) and not isinstance(every, bool):
        return Interval(_shortest(seconds(every, "every")))
    if callable(every):
        return Paced()
    raise WrongCall(f"{_WRONG}; got {said(every)}")


def _shortest(every: float) -> float:
    if not SHORTEST <= every < LONGEST:
        raise WrongCall(f"every is at least {SHORTEST:g} second, and less than three centuries; got {every:g} seconds")
    return every


def _adaptive(given: Adaptive) -> Adaptive:
    least = _shortest(seconds(given.least, "least"))
    most = _shortest(seconds(given.most, "most"))
    factor = given.factor
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 1 < factor < 1000:
        raise WrongCall(f"factor of Adaptive is a number above 1; got {said(factor)}")
    if most < least:
        raise WrongCall(f"Adaptive is given the least and the most; got {least:g} and {most:g} seconds")
    return Adaptive(least, most, float(factor))


def _cron(text: str, zone: object) -> Cron:
    from cronsim import CronSimError

    cron = Cron(" ".join(text.split()), zone_name(zone))
    try:
        first = cron.first(0.0)
    except CronSimError as error:
        raise WrongCall(f"{said(text)} is not cron text (minute hour day month weekday): {error}") from None
    if first == math.inf:
        raise WrongCall(f"{said(text)} never comes")
    return cron


def zone_name(zone: object) -> str:
    """The name of a time zone, given by name or as a ZoneInfo; UTC if None. Raises WrongCall."""
    if zone is None or zone is UTC:
        return UTC_NAME
    name = zone if isinstance(zone, str) else getattr(zone, "key", None)
    if not isinstance(name, str):
        raise WrongCall(f'zone is the name of a time zone, like "Europe/Berlin", or a ZoneInfo; got {said(zone)}')
    try:
        zone_of(name)
    except (KeyError, ValueError, OSError):
        raise WrongCall(f"there is no time zone {said(name)} here; is the package tzdata installed?") from None
    return name


_zones: dict[str, tzinfo] = {UTC_NAME: UTC}


def zone_of(name: str) -> tzinfo:
    found = _zones.get(name)
    if found is None:
        from zoneinfo import ZoneInfo  # late: few schedules need one

        found = _zones[name] = ZoneInfo(name)
    return found


def told_seconds(number: float) -> str:
    """A duration in its largest unit that gives a whole number: ``90s``, ``6h``."""
    for unit in ("w", "d", "h", "m"):
        if number >= UNITS[unit] and number % UNITS[unit] == 0:
            return f"{number / UNITS[unit]:g}{unit}"
    return f"{number:g}s"
