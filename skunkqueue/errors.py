"""All exceptions of SkunkQueue, as one tree.

::

    SkunkError
    +-- WrongCall (ValueError)          a call, option, URL or name that cannot be right
    +-- StoreError                      the store
    |   +-- StoreAway                   it cannot be reached, or its reply was lost; holds the runs in doubt
    |   +-- StoreRefused                it said no, to certain runs; what it names was not stored
    |   |   +-- StoreFull               ... to everything: disk full, read-only, out of memory; nothing was stored
    |   +-- StoreVersion                it was written by a newer major version
    +-- PayloadError (ValueError)       arguments or a result that cannot travel
    |   +-- TooLarge                    ... because of its size
    |   +-- NotPlain                    ... because serializer="plain" and a value is not plain
    |   +-- Corrupt                     bytes that cannot be read back
    |   +-- BadSignature                bytes that nobody we trust has signed
    +-- PartialFire                     fire_many got through in part; says which runs were accepted
    +-- UnknownJob (LookupError)        a worker met a name it does not know
    +-- NotAJob                         a name that leads to something that is not a Job
    +-- JobError                        what a waiter is told
        +-- JobFailed                   the run failed; carries the remote type, message and traceback
        +-- JobCancelled                it was cancelled, or expired
        +-- RunGone                     it is no longer kept
        +-- WaitTimeout (TimeoutError)  it has not ended yet

    Retry (Exception)                   raised by a job: try again
    Fail (Exception)                    raised by a job: fail for good
    Interrupted (BaseException)         raised in a job: stop now
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any


class SkunkError(Exception):
    """The root of every error of ours that a caller may want to catch."""


class WrongCall(SkunkError, ValueError):
    """A call, option, URL or name that cannot be right; says what was wanted and what was found."""


class StoreError(SkunkError):
    """A store could not do what was asked."""


class StoreAway(StoreError):
    """The store cannot be reached, or its reply was lost.

    ``runs`` holds the runs whose fate is in doubt, where the call was a ``fire``: ``run.fire()`` puts the very same
    run again, which is harmless if it had been accepted.
    """

    runs: Sequence[Any] = ()


class StoreRefused(StoreError):
    """The store said no. What ``refused`` names was not stored, by id and with the reason; all, where it is empty.

    ``accepted`` are the handles of those of the same call that were stored.
    """

    refused: Mapping[str, str] = MappingProxyType({})
    accepted: Sequence[Any] = ()


class StoreFull(StoreRefused):
    """The store takes no writes now (disk full, read-only, out of memory). Nothing was stored."""


class StoreVersion(StoreError):
    """The store was written by a newer major version of SkunkQueue."""


class PayloadError(SkunkError, ValueError):
    """Arguments or a result that cannot be encoded."""


class TooLarge(PayloadError):
    """Larger than ``max_payload``."""


class NotPlain(PayloadError):
    """A value that MessagePack cannot carry exactly, where ``serializer="plain"`` asked for that."""


class Corrupt(PayloadError):
    """Bytes that cannot be read back."""


class BadSignature(PayloadError):
    """Bytes that would have to be unpickled, without a signature by a key we have."""


class PartialFire(SkunkError):
    """``fire_many`` got through in part. ``accepted`` are stored; ``missing`` are not, or are in doubt."""

    def __init__(self, message: str, accepted: Sequence[Any], missing: Sequence[Any]) -> None:
        super().__init__(message)
        self.accepted = accepted
        self.missing = missing


class UnknownJob(SkunkError, LookupError):
    """A worker met the name of a job it cannot find."""


class NotAJob(SkunkError):
    """A name leads to something that is not a Job; nothing was executed."""


class JobError(SkunkError):
    """What ``run.wait`` raises when there is no value to give."""


class JobFailed(JobError):
    """The run failed. ``type`` is the remote exception's name, ``traceback`` its text."""

    def __init__(self, message: str, type: str = "", traceback: str = "") -> None:
        super().__init__(message)
        self.type = type
        self.message = message
        self.traceback = traceback

    def __str__(self) -> str:
        head = f"{self.type}: {self.message}" if self.type else self.message
        return f"{head}\n\n{self.traceback}" if self.traceback else head


class JobCancelled(JobError):
    """The run was cancelled, or expired before it started."""


class RunGone(JobError):
    """The run is no longer kept, or never was."""


class WaitTimeout(JobError, TimeoutError):
    """The run has not ended within the time given."""


class Retry(Exception):
    """Raised by a job to be tried again, ``after`` seconds (or a timedelta) from now; by its backoff when not given."""

    def __init__(self, message: str = "", *, after: Any = None) -> None:
        super().__init__(message)
        self.after = after


class Fail(Exception):
    """Raised by a job to fail for good, whatever its ``retries``."""


class Interrupted(BaseException):
    """Raised inside a job that must stop: its time is up, it was cancelled, or its worker is stopping.

    A BaseException, so that a job's own ``except Exception`` cannot eat it.
    """
