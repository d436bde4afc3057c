"""Serves the metrics of a pool, for as long as it works."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from skunkqueue.metrics.http import Address
from skunkqueue.metrics.pages import PoolPages
from skunkqueue.metrics.serving import beside, check_installed
from skunkqueue.worker import WorkerPool


@contextlib.contextmanager
def serving(pool: WorkerPool, listen: str) -> Iterator[Address]:
    """Serve what the pool counts at ``host:port``, in this context; gives where. Raises SkunkError, WrongCall."""
    check_installed()
    pages = PoolPages(pool.queue.name)
    pool.observe(pages.counts.see)
    with beside(pages.pages(), Address.parse(listen)) as where:
        pool.say(f"serving http://{where}/metrics")
        yield where
