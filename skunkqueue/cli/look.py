"""skunq runs, show and workers: what there is."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import click

from skunkqueue.cli.options import ANY_ROUTE, STATE, desk_options
from skunkqueue.envelope import State
from skunkqueue.printable import printable
from skunkqueue.run import attempts

if TYPE_CHECKING:
    from skunkqueue.cli.desk import Desk
    from skunkqueue.envelope import Record

RUNS = ("ID", "STATE", "JOB", "QUEUE", "ROUTE", "ATTEMPTS", "DUE", "RESULT")
WORKERS = ("WORKER", "QUEUE", "ROUTES", "HOST", "PID", "RUNS", "RUNNING")

# -- runs ------------------------------------------------------------------------------------------------------------


@click.command(short_help="List what was fired, newest first.")
@desk_options
@click.option("-r", "--route", type=ANY_ROUTE, metavar="ROUTE", help="Only of this route, whatever the priority.")
@click.option("--state", type=STATE, metavar="STATE", help=f"Only in this state: {', '.join(State)}.")
@click.option("--job", metavar="NAME", help="Only of this job.")
@click.option(
    "-n", "--limit", type=click.IntRange(min=1), default=25, show_default=True, metavar="N", help="At most so many."
)
def runs(url: str | None, queue: str | None, as_json: bool, **which: Any) -> None:
    """List what was fired, newest first.

    \b
    skunq runs -q demo
    skunq runs --state failed --limit 1000 --json
    """
    from skunkqueue.cli import output
    from skunkqueue.cli.desk import Desk
    from skunkqueue.cli.rows import row

    desk = Desk(url, queue)
    records = desk.find(**which)
    if as_json:
        output.print_json_rows(row(record, desk.now) for record in records)
    elif (first := next(records, None)) is None:
        output.say(_no_runs(desk), err=True)
    else:
        output.print_table(RUNS, ([*_cells(record, desk.now)] for record in chain([first], records)))
        if sys.stdout.isatty():
            output.say(desk.summary())


def _cells(record: Record, now: float) -> Iterator[str]:
    from skunkqueue.cli import rows

    yield record.id
    yield str(record.shown(now))
    yield rows.job_of(record) or "?"
    yield record.envelope.queue
    yield record.envelope.route
    yield str(attempts(record))
    yield rows.short(record.envelope.due, now)
    yield cut(rows.outcome(record))


def cut(text: str) -> str:
    """A text in one line, shortened."""
    line = " ".join(text.split())
    return line if len(line) <= 100 else line[:99] + "…"


def _no_runs(desk: Desk) -> str:
    """The message for an empty list."""
    if desk.counts():
        return f"no runs like that; {desk.summary()}"
    others = sorted({queue for queue, _, _ in desk.store.count()})
    return f"no runs on {desk.where}" + (f"; there are runs of {', '.join(others)}" if others else "")


# -- show ------------------------------------------------------------------------------------------------------------


@click.command(short_help="Show all about one run.")
@desk_options
@click.argument("id", metavar="ID")
def show(id: str, url: str | None, queue: str | None, as_json: bool) -> None:
    """Show all about one run: state, result or error with its traceback, attempts, progress.

    \b
    skunq show 0196f3a2b8c15f0e6d1b2c3d4e5f
    """
    from skunkqueue.cli import output
    from skunkqueue.cli.desk import Desk
    from skunkqueue.cli.rows import full_row

    desk = Desk(url, queue)
    record = desk.records([id]).get(id)
    if record is None:
        raise click.ClickException(printable(desk.no_run(id)))
    if as_json:
        output.print_json(full_row(record, desk.now))
    else:
        output.print_facts(_facts(record, desk.now))


def _facts(record: Record, now: float) -> Iterator[tuple[str, str]]:
    from skunkqueue.cli import rows

    envelope, head = record.envelope, rows.head_of(record)
    yield "id", record.id
    yield "job", rows.job_of(record) or "? (its envelope cannot be read)"
    yield "queue", envelope.queue
    yield "route", envelope.route
    yield "state", str(record.shown(now))
    if record.state == State.SUCCEEDED:
        yield "result", rows.text(rows.result_of(record))
    yield "error", record.error or ""
    yield "progress", rows.progress(record)
    yield "attempts", f"{attempts(record)}" + (f" (retries: {head.seal.retries})" if head else "")
    yield "deaths", ", ".join(rows.deaths(record))
    yield "due", rows.local(envelope.due)
    yield from _times(record)
    yield "unique", rows.unique_of(record) or ""
    yield "traceback", rows.traceback_of(record) or ""


def _times(record: Record) -> Iterator[tuple[str, str]]:
    """What the one moving time means now."""
    from skunkqueue.cli.rows import local

    if record.state == State.QUEUED and record.ripe != record.envelope.due:
        yield "next try", local(record.ripe)
    if record.state == State.RUNNING:
        yield "worker", f"{record.worker} (leased until {local(record.ripe)})"
    if not record.open:
        yield "ended", local(record.ended)
        yield "kept until", local(record.ripe)
    elif record.envelope.expires is not None:
        yield "expires", local(record.envelope.expires)


# -- workers ---------------------------------------------------------------------------------------------------------


@click.command(short_help="List the workers that are alive.")
@desk_options
def workers(url: str | None, queue: str | None, as_json: bool) -> None:
    """List the workers that are alive, and what each runs now.

    \b
    skunq workers -q demo
    """
    from skunkqueue.cli import output
    from skunkqueue.cli.desk import Desk

    desk = Desk(url, queue)
    alive = [about for about in _abouts(desk) if queue in (None, about.get("queue"))]
    if as_json:
        output.print_json_rows(alive)
    elif alive:
        output.print_table(WORKERS, ([_field(about, name.lower()) for name in WORKERS] for about in alive))
    else:
        output.say(f"no workers on {desk.where}; to start one: skunq work -q {queue or 'QUEUE'}", err=True)


def _abouts(desk: Desk) -> Iterator[dict[str, Any]]:
    """The description of each worker."""
    for worker, about in sorted(desk.store.workers(now=desk.now).items()):
        try:
            said = json.loads(about)
        except ValueError:
            said = {}
        yield {"worker": worker, **(said if isinstance(said, dict) else {})}


def _field(about: dict[str, Any], name: str) -> str:
    value = about.get(name)
    return ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
