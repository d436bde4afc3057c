"""skunq work: workers on routes, until a signal stops them."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

import click

from skunkqueue.cli.options import QUEUE, ROUTE, url_option

FLAGS = ("-r", "--route")
ATTACHED = ("-r", "--route=")
SIGNALS = ("SIGHUP", "SIGABRT", "SIGQUIT", "SIGTERM", "SIGINT")


class WithRoutes(click.Command):
    """A command whose ``-r`` takes several values: ``-r foo bar`` is ``-r foo -r bar``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(spread(args)))


def spread(args: Sequence[str]) -> Iterator[str]:
    """Repeat ``-r`` before each of its values. Raises UsageError where it has none."""
    listing = wanting = False
    for word in args:
        if not word.startswith("-"):
            wanting = False
            yield from ((FLAGS[0], word) if listing else (word,))
            continue
        if wanting:
            break
        wanting = word in FLAGS
        listing = wanting or word.startswith(ATTACHED)
        if not wanting:
            yield word
    if wanting:
        raise click.UsageError("-r wants one route or more, as in: -r foo bar")


@click.command(cls=WithRoutes, short_help="Start workers on the routes of a queue.")
@click.option("-q", "--queue", type=QUEUE, required=True, metavar="QUEUE", help="The queue's name.")
@click.option(
    *FLAGS,
    "routes",
    type=ROUTE,
    multiple=True,
    metavar="ROUTE...",
    help='Routes to serve, a worker for each; one named twice gets two. ["default"]',
)
@url_option
@click.option(
    "--import",
    "imports",
    multiple=True,
    metavar="MODULE",
    help="Import this when a worker starts, so that it is quick and sure to know its jobs; may be repeated.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Runs that a worker executes at a time: on threads, or on one event loop where they are async.",
)
@click.option("--burst", is_flag=True, help="Stop when nothing is waiting and nothing runs; what is due later stays.")
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="How long a gentle stop waits for what runs, before it interrupts it. [as long as it takes]",
)
@click.option("--max-runs", type=click.IntRange(min=1), metavar="N", help="Renew a worker's process after N runs.")
@click.option("--logfile", type=click.Path(dir_okay=False), metavar="FILE", help="Append the log to it. [stderr]")
@click.option("--pidfile", type=click.Path(dir_okay=False), metavar="FILE", help="Hold the process ID in it.")
@click.option("--verbose", is_flag=True, help="Say more in the log.")
def work(queue: str, routes: tuple[str, ...], logfile: str | None, pidfile: str | None, **options: Any) -> None:
    """Start workers on the routes of a queue, one process for each route named.

    \b
    skunq work -q demo -r foo bar baz             three workers
    skunq work -q demo -r foo foo                 two on the same route
    skunq work -q demo --import shop.jobs         the route "default"

    What is in the current folder can be imported. To stop: SIGTERM, SIGHUP, SIGQUIT and SIGABRT let the jobs that run
    finish; SIGINT (Ctrl-C) interrupts them, and they are run again later. A second signal interrupts, a third kills.
    """
    from skunkqueue.cli.pidfile import holding

    if sys.path[:1] != [os.getcwd()]:
        sys.path.insert(0, os.getcwd())
    with leaving_on_signals(), holding(pidfile), appending(logfile) as log:
        serve(queue, routes or ("default",), log, **options)


def serve(
    queue: str, routes: Sequence[str], log: TextIO | None, *, url: str | None, burst: bool, **options: Any
) -> None:
    """Work until idle or stopped. Raises SkunkError where workers cannot be started."""
    from skunkqueue.worker import WorkerPool

    pool = WorkerPool(queue, routes, url, log=log, **options)
    with contextlib.closing(pool.queue):
        if burst:
            pool.run_until_idle()
        else:
            pool.listen()


@contextlib.contextmanager
def leaving_on_signals() -> Iterator[None]:
    """Leave with 0 on a signal that comes before the pool answers them, or after."""
    previous = {number: signal.signal(number, _leave) for name in SIGNALS if (number := getattr(signal, name, None))}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _leave(*_: object) -> None:
    sys.exit(0)


def appending(path: str | None) -> contextlib.AbstractContextManager[TextIO | None]:
    """The log file, or None where none is wanted."""
    if path is None:
        return contextlib.nullcontext()
    try:
        return open(path, "a", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise click.ClickException(f"the log file {path} cannot be written ({error.strerror})") from error
