"""What skunq work does: workers on routes, until a signal stops them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from skunkqueue.cli.ctrl_c import ctrl_c
from skunkqueue.cli.logfile import appending
from skunkqueue.cli.pidfile import holding
from skunkqueue.cli.reloading import Reloading
from skunkqueue.errors import WrongCall
from skunkqueue.signals import catch, give_back

if TYPE_CHECKING:
    from skunkqueue.worker import WorkerPool


def serve(
    queue: str,
    routes: Sequence[str],
    *,
    url: str | None,
    burst: bool,
    logfile: str | None,
    pidfile: str | None,
    metrics: str | None = None,
    reload: bool = False,
    reload_dirs: Sequence[str] = (),
    **options: Any,
) -> None:
    """Work until idle or stopped. Raises SkunkError if workers cannot be started."""
    if sys.path[:1] != [os.getcwd()]:
        sys.path.insert(0, os.getcwd())
    reloading = Reloading(reload, reload_dirs)
    if reloading.is_on and burst:
        raise WrongCall("--reload has no meaning for --burst, which stops when there is nothing left to do")
    with leaving_on_signals() as leaving, reloading.on_signal(), holding(pidfile), appending(logfile) as log:
        ctrl_c.obey()
        from skunkqueue.worker import WorkerPool
        from skunkqueue.worker.title import set_title

        set_title(f"{queue} pool")
        pool = WorkerPool(queue, routes or ("default",), url, log=log, **options)
        if pool.queue.one_process:
            raise WrongCall(f"{pool.queue.url} lives in one process only: nobody could fire anything for these workers")
        with contextlib.closing(pool.queue), _measured(pool, metrics), reloading.of(pool):
            leaving.stop_too(pool.shutdown)
            if burst:
                pool.run_until_idle()
            else:
                pool.listen()


def _measured(pool: WorkerPool, where: str | None) -> contextlib.AbstractContextManager[object]:
    """Serve the metrics of the pool, if there is an address to serve them on."""
    if where is None:
        return contextlib.nullcontext()
    from skunkqueue.metrics.beside_pool import serving  # late: it takes longer than the rest of a pool

    return serving(pool, where)


class Leaving:
    """Answers a signal that comes before the pool handles signals, or after: exits with 0.

    The exit alone may be lost. Python drops what is raised in a callback of its own, such as the one that follows each
    import. So the signal is remembered as well, and stops the pool when it starts.
    """

    def __init__(self) -> None:
        self._asked = False
        self._stop: Callable[[], None] | None = None

    def stop_too(self, stop: Callable[[], None]) -> None:
        """Have a later signal call this as well. Exits if there was one already."""
        self._stop = stop  # first, so that no signal comes in between
        if self._asked:
            sys.exit(0)

    def on_signal(self, *_: object) -> None:
        self._asked = True
        if self._stop is not None:
            self._stop()
        sys.exit(0)


@contextlib.contextmanager
def leaving_on_signals() -> Iterator[Leaving]:
    """Exit with 0 on a signal that comes before the pool handles signals, or after."""
    leaving = Leaving()
    caught = catch(leaving.on_signal)
    try:
        yield leaving
    finally:
        give_back(caught)
