"""Workers: a pool claims, leases, commits and monitors; children execute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skunkqueue.worker.pool.pool import WorkerPool

__all__ = ["WorkerPool"]


def __getattr__(name: str) -> Any:
    # A worker process imports this package too, and needs nothing of the pool.
    if name == "WorkerPool":
        from skunkqueue.worker.pool.pool import WorkerPool

        return WorkerPool
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
