"""Workers: a pool claims, leases, commits and monitors; children execute.

The names here are all that a source of claims needs of it: docs/sources.md.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from skunkqueue.worker.child.execute import shown
    from skunkqueue.worker.hook import Hook, ShownResult, shared_bytes
    from skunkqueue.worker.pool.isolate import exchange_isolated
    from skunkqueue.worker.pool.log import Log
    from skunkqueue.worker.pool.log_entry import ERROR, INFO, WARNING, LogEntry
    from skunkqueue.worker.pool.pool import Pool, WorkerPool, pool_name
    from skunkqueue.worker.pool.settings import Settings

__all__ = [
    "ERROR",
    "INFO",
    "WARNING",
    "Hook",
    "Log",
    "LogEntry",
    "Pool",
    "Settings",
    "ShownResult",
    "WorkerPool",
    "exchange_isolated",
    "pool_name",
    "shared_bytes",
    "shown",
]

# A worker process imports this package too, and needs nothing of the pool.
_PLACES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("Hook", "ShownResult", "shared_bytes"), "hook"),
    "shown": "child.execute",
    "exchange_isolated": "pool.isolate",
    "Log": "pool.log",
    **dict.fromkeys(("ERROR", "INFO", "WARNING", "LogEntry"), "pool.log_entry"),
    **dict.fromkeys(("Pool", "WorkerPool", "pool_name"), "pool.pool"),
    "Settings": "pool.settings",
}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
