"""All exceptions of SkunkQueue, as one tree.

::

    SkunkError
    +-- WrongCall (ValueError)          a call, option, URL or name that cannot be right
    +-- StoreError                      the store could not do what was asked
    |   +-- StoreAway                   it cannot be reached, or its reply was lost; holds the runs in doubt
    |   +-- StoreRefused                it refused certain runs; those it names were not stored
    |   |   +-- StoreFull               it takes no writes: disk full, read-only, out of memory; nothing was stored
    |   +-- StoreVersion                it was written by a newer major version
    |   +-- WrongStore                  what is there is no store of ours; waiting does not help
    +-- PayloadError (ValueError)       arguments or a result that cannot travel
    |   +-- TooLarge                    ... because of its size
    |   +-- NotPlain                    ... because serializer="plain" and a value is not plain
    |   +-- Corrupt                     bytes that cannot be read back
    |   +-- BadSignature                pickled bytes without a signature by a key we have
    +-- PartialFire                     fire_many stored only some of its runs; says which
    +-- UnknownJob (LookupError)        a worker met a name it does not know
    +-- NotAJob                         a name that leads to something that is not a Job
    +-- JobError                        raised when a run has no value to return
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
    """The root of all errors of SkunkQueue that a caller may want to catch."""


class WrongCall(SkunkError, ValueError):
    """A call, option, URL or name that cannot be right; says what was wanted and what was found."""


class StoreError(SkunkError):
    """A store could not do what was asked."""


class StoreAway(StoreError):
    """The store cannot be reached, or its reply was lost.

    After a ``fire``, ``runs`` are the runs that may or may not be stored. ``run.fire()`` puts the very same run again,
    which is harmless if it was accepted before.
    """

    runs: Sequence[Any] = ()


class StoreRefused(StoreError):
    """The store refused runs. ``refused`` has the reason for each run that was not stored, by id; empty means all.

    ``accepted`` are the handles of the runs of the same call that were stored.
    """

    refused: Mapping[str, str] = MappingProxyType({})
    accepted: Sequence[Any] = ()


class StoreFull(StoreRefused):
    """The store takes no writes now (disk full, read-only, out of memory). Nothing was stored."""


class StoreVersion(StoreError):
    """The store was written by a newer major version of SkunkQueue."""


class WrongStore(StoreError):
    """What answers there, or lies there, is something else: a database of another program, a server of another kind."""


class PayloadError(SkunkError, ValueError):
    """Arguments or a result that cannot be encoded."""


class TooLarge(PayloadError):
    """Larger than ``max_payload``."""


class NotPlain(PayloadError):
    """A value that MessagePack cannot carry exactly, although ``serializer="plain"`` demands it."""


class Corrupt(PayloadError):
    """Bytes that cannot be read back."""


class BadSignature(PayloadError):
    """Bytes that would have to be unpickled, but have no signature by a key we have."""


class PartialFire(SkunkError):
    """``fire_many`` stored only some runs. ``accepted`` were stored; ``missing`` were not, or it is not known."""

    def __init__(self, message: str, accepted: Sequence[Any], missing: Sequence[Any]) -> None:
        super().__init__(message)
        self.accepted = accepted
        self.missing = missing

    def __reduce__(self) -> Any:
        return type(self), (*self.args, self.accepted, self.missing), self.__dict__


class UnknownJob(SkunkError, LookupError):
    """A worker met the name of a job it cannot find."""

    is_of_every_run = False
    """Within a worker: whether it is so for all runs of that job, whatever their arguments."""


class NotAJob(SkunkError):
    """A name leads to something that is not a Job; nothing was executed."""


class JobError(SkunkError):
    """What ``run.wait`` raises when there is no value to return."""


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
    """The run has not ended within the time given. Says, as far as it is known, why.

    ``state`` is the run's state as it was known last, ``error`` what the store has as the reason that it did not run or
    is tried again.
    """

    def __init__(self, message: str, state: str = "queued", error: str | None = None) -> None:
        super().__init__(message)
        self.state = state
        self.error = error


class Retry(Exception):
    """Raised by a job to be tried again ``after`` seconds (or a timedelta) from now, or else after its backoff."""

    def __init__(self, message: str = "", *, after: Any = None) -> None:
        super().__init__(message)
        self.after = after


class Fail(Exception):
    """Raised by a job to fail for good, whatever its ``retries``."""


class Interrupted(BaseException):
    """Raised inside a job that must stop: its time is up, it was cancelled, or its worker is stopping.

    A BaseException, so that a job's own ``except Exception`` does not catch it.
    """
