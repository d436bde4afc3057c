"""What skunq work does: workers on routes, until a signal stops them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from skunkqueue.cli.pidfile import holding
from skunkqueue.errors import SkunkError, WrongCall
from skunkqueue.signals import catch, give_back


def serve(
    queue: str,
    routes: Sequence[str],
    *,
    url: str | None,
    burst: bool,
    logfile: str | None,
    pidfile: str | None,
    **options: Any,
) -> None:
    """Work until idle or stopped. Raises SkunkError where workers cannot be started."""
    if sys.path[:1] != [os.getcwd()]:
        sys.path.insert(0, os.getcwd())
    with leaving_on_signals(), holding(pidfile), appending(logfile) as log:
        from skunkqueue.worker import WorkerPool

        pool = WorkerPool(queue, routes or ("default",), url, log=log, **options)
        if pool.queue.one_process:
            raise WrongCall(f"{pool.queue.url} lives in one process only: nobody could fire anything for these workers")
        with contextlib.closing(pool.queue):
            if burst:
                pool.run_until_idle()
            else:
                pool.listen()


@contextlib.contextmanager
def leaving_on_signals() -> Iterator[None]:
    """Leave with 0 on a signal that comes before the pool answers them, or after."""
    caught = catch(_leave)
    try:
        yield
    finally:
        give_back(caught)


def _leave(*_: object) -> None:
    sys.exit(0)


def appending(path: str | None) -> contextlib.AbstractContextManager[TextIO | None]:
    """The log file, or None where none is wanted."""
    if path is None:
        return contextlib.nullcontext()
    try:
        return open(path, "a", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise SkunkError(f"the log file {path} cannot be written ({error.strerror})") from error
