"""Task scheduling for humans who use Python."""

from __future__ import annotations

TYPE_CHECKING = False  # to import it would cost more than all the rest here
if TYPE_CHECKING:
    from skunkqueue.classes import JobMixin
    from skunkqueue.errors import (
        BadSignature,
        Corrupt,
        Fail,
        Interrupted,
        JobCancelled,
        JobError,
        JobFailed,
        NotAJob,
        NotPlain,
        PartialFire,
        PayloadError,
        Retry,
        RunGone,
        SkunkError,
        StoreAway,
        StoreError,
        StoreFull,
        StoreRefused,
        StoreVersion,
        TooLarge,
        UnknownJob,
        WaitTimeout,
        WrongCall,
        WrongStore,
    )
    from skunkqueue.job import Job
    from skunkqueue.limits.limit import Limit
    from skunkqueue.persistence.sqlite import default_cfg
    from skunkqueue.policy import Backoff
    from skunkqueue.queue import SkunkQueue
    from skunkqueue.run import Run, Runs, current_run
    from skunkqueue.schedules.desk import Schedule
    from skunkqueue.schedules.when import Adaptive
    from skunkqueue.worker import WorkerPool

__version__ = "1.0.0"

__all__ = [
    "Adaptive",
    "Backoff",
    "BadSignature",
    "Corrupt",
    "Fail",
    "Interrupted",
    "Job",
    "JobCancelled",
    "JobError",
    "JobFailed",
    "JobMixin",
    "Limit",
    "NotAJob",
    "NotPlain",
    "PartialFire",
    "PayloadError",
    "Retry",
    "Run",
    "RunGone",
    "Runs",
    "Schedule",
    "SkunkError",
    "SkunkQueue",
    "StoreAway",
    "StoreError",
    "StoreFull",
    "StoreRefused",
    "StoreVersion",
    "TooLarge",
    "UnknownJob",
    "WaitTimeout",
    "WorkerPool",
    "WrongCall",
    "WrongStore",
    "current_run",
    "default_cfg",
]

_HOMES = {
    "Adaptive": "skunkqueue.schedules.when",
    "Backoff": "skunkqueue.policy",
    "Job": "skunkqueue.job",
    "JobMixin": "skunkqueue.classes",
    "Limit": "skunkqueue.limits.limit",
    "Run": "skunkqueue.run",
    "Runs": "skunkqueue.run",
    "Schedule": "skunkqueue.schedules.desk",
    "SkunkQueue": "skunkqueue.queue",
    "WorkerPool": "skunkqueue.worker",
    "current_run": "skunkqueue.run",
    "default_cfg": "skunkqueue.persistence.sqlite",
}
"""Where each public name lives; all others live in errors."""


def __getattr__(name: str) -> object:
    # Imported when first asked for, so that a program pays only for what it uses.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(_HOMES.get(name, "skunkqueue.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
