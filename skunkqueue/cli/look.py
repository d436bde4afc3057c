"""skunq runs, show and workers: the commands that inspect runs and workers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from skunkqueue.cli import rows
from skunkqueue.cli.options import RUN_ID, checked, desk_options
from skunkqueue.cli.which import Which, filter_options, short_ids
from skunkqueue.durations import age, span
from skunkqueue.envelope import Record, State
from skunkqueue.errors import PayloadError
from skunkqueue.facts import head_of, history, job_of, opened_arguments, running_since, times, worker_label
from skunkqueue.printable import printable
from skunkqueue.run import attempts

if TYPE_CHECKING:
    from skunkqueue.cli.desk import Desk

SHORT = 4096
"""Bytes of a result that is read for a list, of which a line has room for its start."""

COLUMNS: Mapping[str, Callable[[Record, float], str]] = {
    "state": lambda record, now: str(record.shown(now)),
    "job": lambda record, now: job_of(record.envelope) or "?",
    "call": lambda record, now: cut(rows.call_text(record.envelope)),
    "queue": lambda record, now: record.envelope.queue,
    "route": lambda record, now: rows.route_text(record.envelope.route),
    "attempts": lambda record, now: str(attempts(record)),
    "age": lambda record, now: rows.age_text(record.envelope.due, now),
    "due": lambda record, now: rows.short(record.envelope.due, now),
    "took": lambda record, now: rows.took_text(record),
    "worker": lambda record, now: worker_label(record.worker or ""),
    "result": lambda record, now: LONG if is_long(record) else cut(rows.outcome(record)),
}
"""What `skunq runs` can show of a run, beside its id: ``id`` is the end of it, ``full-id`` all of it."""

USUAL = ("id", "state", "job", "age", "took", "result")
WIDE = ("id", "state", "job", "queue", "route", "attempts", "age", "took", "result")
LONG = "<long; skunq show prints it>"
MOST_RUNNING = 5000
"""Running runs that are looked through, for what workers do that have not told yet."""

WORKERS = ("WORKER", "QUEUE", "ROUTES", "POOL", "HOST", "PID", "RUNS", "DOING")

# -- runs ------------------------------------------------------------------------------------------------------------


def _columns(value: str) -> tuple[str, ...]:
    from skunkqueue.options import choice

    names = tuple(name.strip().lower() for name in value.split(","))
    return tuple(choice("column", name, ("id", "full-id", *COLUMNS)) for name in names)


@click.command(short_help="List what was fired, newest first.")
@desk_options
@filter_options
@click.option(
    "-n", "--limit", type=click.IntRange(min=1), default=25, show_default=True, metavar="N", help="At most so many."
)
@click.option(
    "--columns", type=checked(_columns), metavar="NAME,...", help=f"What to show: id, full-id, {', '.join(COLUMNS)}."
)
def runs(
    url: str | None, queue: str | None, as_json: bool, limit: int, columns: tuple[str, ...] | None, **which: Any
) -> None:
    """List what was fired, newest first. The end of an id is enough for all other commands.

    \b
    skunq runs -q demo
    skunq runs --state failed --job send --since 1h --error timeout
    skunq runs --columns id,call,took,worker
    """
    from skunkqueue.cli import output
    from skunkqueue.cli.desk import Desk

    desk = Desk(url, queue)
    bodies = columns is not None and "call" in columns
    records = desk.find(Which(**which), limit, values=None if as_json else SHORT, bodies=bodies)
    if as_json:
        output.print_json_rows(rows.row(record, desk.now) for record in records)
    elif found := list(records):
        shown = columns or (WIDE if output.is_wide() else USUAL)
        output.print_table([name.upper() for name in shown], _lines(found, shown, desk.now))
        if sys.stdout.isatty():
            output.say(desk.summary())
    else:
        output.say(_no_runs(desk), err=True)


def _lines(records: Sequence[Record], columns: Sequence[str], now: float) -> Iterator[list[str]]:
    for record, short in zip(records, short_ids(records), strict=True):
        yield [{"id": short, "full-id": record.id}.get(name) or _cell(record, name, now) for name in columns]


def is_long(record: Record) -> bool:
    """Whether its result was too long to be read for a list."""
    return record.state == State.SUCCEEDED and record.value is None


def _cell(record: Record, name: str, now: float) -> str:
    try:
        return COLUMNS[name](record, now)
    except Exception as error:
        return rows.unshown(error)


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
@click.option("--unpickle", is_flag=True, help="Show pickled arguments too, once their signature has been checked.")
@click.argument("id", type=RUN_ID, metavar="ID")
def show(id: str, unpickle: bool, url: str | None, queue: str | None, as_json: bool) -> None:
    """Show all about one run: the call, its state, result or error, who ran it, when, and every attempt.

    \b
    skunq show 2c3d4e5f
    """
    from skunkqueue.cli import graph, output
    from skunkqueue.cli.desk import Desk

    desk = Desk(url, queue)
    id = desk.ids_of([id])[id]
    record = desk.whole(id)
    if record is None:
        raise click.ClickException(printable(desk.no_run(id)))
    if as_json:
        output.print_json({**rows.full_row(record, desk.now), "after": graph.rows(desk, id)})
    else:
        waits = list(graph.lines(desk, id))
        why = graph.reason(desk, id) if waits and not record.error else ""
        output.print_facts([*_facts(record, desk, unpickle), ("error", why), ("after", "\n".join(waits))])


def _facts(record: Record, desk: Desk, unpickle: bool) -> Iterator[tuple[str, str]]:
    envelope, head, now = record.envelope, head_of(record.envelope), desk.now
    yield "id", record.id
    yield "job", job_of(envelope) or "? (its envelope cannot be read)"
    yield "call", _call(record, unpickle)
    yield "queue", envelope.queue
    yield "route", rows.route_text(envelope.route)
    yield "state", str(record.shown(now))
    if record.state == State.SUCCEEDED:
        yield "result", rows.text(rows.result_of(record))
    yield "error", record.error or ""
    yield "progress", rows.progress(record)
    yield "attempts", f"{attempts(record)}" + (f" (retries: {head.seal.retries})" if head else "")
    yield "deaths", ", ".join(rows.deaths(record))
    when = rows.age_text(envelope.due, now)
    yield "due", f"{rows.local(envelope.due)} ({when if envelope.due > now else f'{when} ago'})" if when else ""
    yield from _ran(record, desk)
    yield from _times(record)
    yield "limit", rows.limit_text(envelope)
    yield "unique", rows.unique_of(record) or ""
    yield "history", "\n".join(_attempts(record)) if attempts(record) > 1 else ""
    yield "traceback", rows.traceback_of(record) or ""


def _call(record: Record, unpickle: bool) -> str:
    if not unpickle:
        return rows.call_text(record.envelope)
    try:
        return rows.call_text(record.envelope, opened_arguments(record.envelope))
    except PayloadError as error:
        return f"(its arguments cannot be shown here: {error})"


def _ran(record: Record, desk: Desk) -> Iterator[tuple[str, str]]:
    """When its last attempt ran, for how long, and where."""
    if record.state == State.RUNNING:
        since = running_since(record, desk.workers())
        yield "started", "" if since is None else f"{rows.local(since)} ({rows.age_text(since, desk.now)})"
        yield "worker", f"{record.worker} (leased until {rows.local(record.ripe)})"
        return
    ran = times(record)
    if ran is not None:
        yield "started", rows.local(ran[0])
        yield "took", rows.took_text(record)
    yield "worker", record.worker or ""


def _attempts(record: Record) -> Iterator[str]:
    for one in history(record):
        yield f"{one.started:%Y-%m-%d %H:%M:%S}  {span(one.took)}  {one.worker}  {one.error or 'succeeded'}"


def _times(record: Record) -> Iterator[tuple[str, str]]:
    """The times that depend on the state of the run."""
    if record.state == State.QUEUED and record.ripe != record.envelope.due:
        yield "next try", rows.local(record.ripe)
    if not record.open:
        yield "ended", rows.local(record.ended)
        yield "kept until", rows.local(record.ripe)
    elif record.envelope.expires is not None:
        yield "expires", rows.local(record.envelope.expires)


# -- workers ---------------------------------------------------------------------------------------------------------


@click.command(short_help="List the workers that are alive.")
@desk_options
def workers(url: str | None, queue: str | None, as_json: bool) -> None:
    """List the workers that are alive, and what each runs now. Exits with 1 if there are none.

    \b
    skunq workers -q demo
    """
    from skunkqueue.cli import output
    from skunkqueue.cli.desk import Desk

    desk = Desk(url, queue)
    alive = [about for about in abouts(desk) if queue in (None, about.get("queue"))]
    if as_json:
        output.print_json_rows(alive)
    elif alive:
        output.print_table(WORKERS, ([_field(about, name.lower(), desk.now) for name in WORKERS] for about in alive))
    else:
        output.say(f"no workers on {desk.where}; to start one: skunq work -q {queue or 'QUEUE'}", err=True)
    if not alive:
        click.get_current_context().exit(1)


def abouts(desk: Desk) -> list[dict[str, Any]]:
    """The description of each worker. One that has started a run since it last spoke is seen by its first claim."""
    first = {record.worker: record for record in desk.find(Which(state=State.RUNNING), MOST_RUNNING)}
    return [_about(worker, about, first.get(worker)) for worker, about in sorted(desk.workers().items())]


def _about(worker: str, about: str, first: Record | None) -> dict[str, Any]:
    try:
        said = json.loads(about)
    except ValueError:
        said = {}
    found = {"worker": worker, **(said if isinstance(said, dict) else {})}
    if first is not None and not found.get("running"):
        found.update(running=[first.id], doing=[[job_of(first.envelope) or "?", 0.0]])
    return found


def _field(about: dict[str, Any], name: str, now: float) -> str:
    if name == "worker":
        return worker_label(about["worker"])
    if name == "doing":
        return ", ".join(doing(about, now))
    value = about.get(name)
    return ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)


def doing(about: Mapping[str, Any], now: float) -> Iterator[str]:
    """The jobs that a worker executes, each with how long it has been at it."""
    try:
        for job, since in about.get("doing", ()):
            yield f"{job} {age(now - since)}" if since else str(job)
    except (ValueError, TypeError):  # it is of another version
        yield "?"
