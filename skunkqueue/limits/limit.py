"""Limit, which people give a job, and the terms that travel with each of its runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from skunkqueue.durations import Duration, seconds
from skunkqueue.errors import WrongCall
from skunkqueue.printable import said

MOST: Final = 10_000
"""The largest count of a limit without ``per``: for each that goes on at once there is a run of ours in the store."""


class Terms(NamedTuple):
    """What a limit allows, as sealed in each run: ``most`` at once; with ``per``, ``most`` starts in so many seconds.

    A most of 0 allows any number: then keys only take turns.
    """

    most: int
    per: float = 0.0
    burst: int = 1

    @property
    def is_rate(self) -> bool:
        return self.per > 0

    @property
    def is_at_once(self) -> bool:
        return self.most > 0 and not self.per

    @property
    def permits(self) -> int:
        """How many permits a key has at most."""
        return self.most if self.is_at_once else 1


FAIR: Final = Terms(0)


class Limit:
    """At most ``count`` runs at once, over all pools; with ``per``, at most ``count`` starts in so much time.

    ``per`` is seconds, a timedelta or a text like "1m"; ``burst`` is how many may start at once after a lull, else they
    start evenly spaced. ``key``: a text, for one limit that all jobs of a route share that name it; or a function of
    the call's arguments that gives a text or a whole number, for a limit of each such key of the job. Without it the
    job has one limit. It holds on each route by itself. Raises WrongCall.
    """

    def __init__(
        self,
        count: int,
        key: str | Callable[..., str | int] | None = None,
        *,
        per: Duration | None = None,
        burst: int | None = None,
    ) -> None:
        self.count: int = _whole("a limit", count)
        if key is not None and not callable(key) and not (isinstance(key, str) and key and key.isprintable()):
            raise WrongCall(
                f"key of a limit is a printable text, or a function of the call's arguments; got {said(key)}"
            )
        self.key = key
        self.per: float = 0.0 if per is None else seconds(per, "per of a limit")
        if per is not None and not self.per:
            raise WrongCall(
                f"per of a limit is more than 0 seconds; for a limit of runs at once leave it out; got {said(per)}"
            )
        if burst is not None and per is None:
            raise WrongCall("burst is for a limit with per=: without it, count is how many run at once")
        self.burst: int = 1 if burst is None else _whole("burst of a limit", burst)
        if self.burst > self.count:
            raise WrongCall(f"burst of a limit is at most its count, {self.count}; got {self.burst}")
        if per is None and count > MOST:
            raise WrongCall(f"a limit of runs at once is at most {MOST:,}; got {count:,}")

    @property
    def terms(self) -> Terms:
        return Terms(self.count, self.per, self.burst)

    def _key(self) -> tuple[Any, ...]:
        return self.count, self.key, self.per, self.burst

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Limit) and type(self) is type(other) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        key = "" if self.key is None else f", key={self.key!r}"
        per = f", per={self.per:g}, burst={self.burst}" if self.per else ""
        return f"{type(self).__name__}({self.count}{key}{per})"

    def digest(self, job: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """The digest of a call's key: it names the sub-route of its runs. Raises WrongCall and what ``key`` raises."""
        if callable(self.key):
            return _digest(f"{job}\n{_checked(self.key(*args, **kwargs), job)}")
        return _digest(f"{job}\n\n" if self.key is None else f"\n{self.key}")


class Fair(Limit):
    """What ``fair_by`` makes: keys take turns, each with any number at once."""

    def __init__(self, key: Callable[..., str | int]) -> None:
        super().__init__(1, key)

    @property
    def terms(self) -> Terms:
        return FAIR


def _whole(what: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 31:
        raise WrongCall(f"{what} is a whole number from 1 up; got {said(value)}")
    return value


def _checked(key: object, job: str) -> str:
    if isinstance(key, int) and not isinstance(key, bool):
        return str(key)
    if type(key).__name__ == "ValueOf":
        raise WrongCall(
            f"the key of the limit of {job} is the value of a run that it waits for, which is not known yet"
        )
    if not isinstance(key, str) or not key or not key.isprintable():
        raise WrongCall(
            f"the key of a limit, made of a call of {job}, is a printable text or a whole number; got {said(key)}"
        )
    return key


def _digest(text: str) -> str:
    from hashlib import blake2b  # late: few programs need it

    return blake2b(text.encode(), digest_size=12).hexdigest()
