"""skunq work as click knows it: its help, and a sentence for each way to call it wrong."""

from __future__ import annotations

from typing import Any

import click

from skunkqueue.cli.options import DURATION, LEASE, LISTEN, MODULE, QUEUE, ROUTE, log_format_option, url_option
from skunkqueue.cli.plain import LISTING, placed, spread
from skunkqueue.errors import WrongCall


class WithRoutes(click.Command):
    """A command whose ``-r`` takes several values: ``-r foo bar`` is ``-r foo -r bar``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            left = super().parse_args(ctx, list(spread(args)))
            if not ctx.resilient_parsing:  # as it is for the completion of a word
                _place(ctx)
            return left
        except WrongCall as error:
            raise click.UsageError(str(error), ctx) from error


def _place(ctx: click.Context) -> None:
    given = ctx.params
    given["queue"], given["routes"] = placed(given["queue"], given["routes"], given.pop("words"))
    if given["queue"] is None:
        raise click.UsageError("Missing option '-q' / '--queue': the queue to work on, as in: skunq work -q demo", ctx)


@click.command(cls=WithRoutes, short_help="Start workers on the routes of a queue.")
@click.argument("words", nargs=-1, metavar="[QUEUE] [ROUTE...]")
@click.option("-q", "--queue", type=QUEUE, metavar="QUEUE", help="The queue's name.")
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
    type=MODULE,
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
    type=DURATION,
    metavar="TIME",
    help="How long a gentle stop waits for what runs, before it interrupts it. [as long as it takes]",
)
@click.option(
    "--reload",
    is_flag=True,
    help="When a Python file changes below the current folder, start new workers; the old ones finish what they run.",
)
@click.option(
    "--reload-dir",
    "reload_dirs",
    type=click.Path(file_okay=False, exists=True),
    multiple=True,
    metavar="DIR",
    help="Watch this folder for --reload instead; may be repeated.",
)
@click.option("--max-runs", type=click.IntRange(min=1), metavar="N", help="Renew a worker's process after N runs.")
@click.option(
    "--lease",
    type=LEASE,
    default="15s",
    show_default=True,
    metavar="TIME",
    help="How long its runs stay with it when it vanishes.",
)
@click.option(
    "--patience",
    type=DURATION,
    default="10m",
    show_default=True,
    metavar="TIME",
    help="How long a run of a job that is not known here waits for a worker that knows it.",
)
@click.option(
    "--kill-after",
    type=DURATION,
    default="5s",
    show_default=True,
    metavar="TIME",
    help="How long an interrupted job may take to come back, before its worker is killed.",
)
@click.option(
    "--max-payload", type=click.IntRange(min=1), metavar="BYTES", help="The largest result that is kept. [1 MiB]"
)
@click.option("--logfile", type=click.Path(dir_okay=False), metavar="FILE", help="Append the log to it. [stderr]")
@log_format_option
@click.option(
    "--metrics",
    type=LISTEN,
    metavar="HOST:PORT",
    help="Serve there what the pool knows of its runs, for Prometheus and probes.",
)
@click.option("--pidfile", type=click.Path(dir_okay=False), metavar="FILE", help="Hold the process ID in it.")
@click.option("--verbose", is_flag=True, help="Say more in the log: the traceback also of what is tried again.")
def work(**options: Any) -> None:
    """Start workers on the routes of a queue, one process for each route named.

    \b
    skunq work -q demo -r foo bar baz             three workers
    skunq work demo foo bar baz                   the same
    skunq work -q demo -r foo foo                 two on the same route
    skunq work -q demo --import shop.jobs         the route "default"

    What is in the current folder can be imported. To stop: SIGTERM, SIGHUP, SIGQUIT and SIGABRT let the jobs that run
    finish; SIGINT (Ctrl-C) interrupts them, and they are run again later. A second signal interrupts, a third kills.
    SIGUSR2 starts new workers, which import the code as it is then, while the old ones finish what they run.
    """
    from skunkqueue.cli.serve import serve

    serve(**options)
