"""skunq work as click knows it: its help, and a sentence for each way to call it wrong."""

from __future__ import annotations

from typing import Any

import click

from skunkqueue.cli.options import QUEUE, ROUTE, log_format_option, url_option
from skunkqueue.cli.plain import LISTING, spread
from skunkqueue.errors import WrongCall


class WithRoutes(click.Command):
    """A command whose ``-r`` takes several values: ``-r foo bar`` is ``-r foo -r bar``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, list(spread(args)))
        except WrongCall as error:
            raise click.UsageError(str(error), ctx) from error


@click.command(cls=WithRoutes, short_help="Start workers on the routes of a queue.")
@click.option("-q", "--queue", type=QUEUE, required=True, metavar="QUEUE", help="The queue's name.")
@click.option(
    *LISTING,
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
@click.option(
    "--lease",
    type=click.FloatRange(min=0.1),
    default=15.0,
    show_default=True,
    metavar="SECONDS",
    help="How long its runs stay with it when it vanishes.",
)
@click.option(
    "--patience",
    type=click.FloatRange(min=0),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a run of a job that is not known here waits for a worker that knows it.",
)
@click.option(
    "--kill-after",
    type=click.FloatRange(min=0),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How long an interrupted job may take to come back, before its worker is killed.",
)
@click.option(
    "--max-payload", type=click.IntRange(min=1), metavar="BYTES", help="The largest result that is kept. [1 MiB]"
)
@click.option("--logfile", type=click.Path(dir_okay=False), metavar="FILE", help="Append the log to it. [stderr]")
@log_format_option
@click.option("--pidfile", type=click.Path(dir_okay=False), metavar="FILE", help="Hold the process ID in it.")
@click.option("--verbose", is_flag=True, help="Say more in the log: the traceback also of what is tried again.")
def work(**options: Any) -> None:
    """Start workers on the routes of a queue, one process for each route named.

    \b
    skunq work -q demo -r foo bar baz             three workers
    skunq work -q demo -r foo foo                 two on the same route
    skunq work -q demo --import shop.jobs         the route "default"

    What is in the current folder can be imported. To stop: SIGTERM, SIGHUP, SIGQUIT and SIGABRT let the jobs that run
    finish; SIGINT (Ctrl-C) interrupts them, and they are run again later. A second signal interrupts, a third kills.
    """
    from skunkqueue.cli.serve import serve

    serve(**options)
