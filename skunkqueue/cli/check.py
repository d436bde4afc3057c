"""skunq check: whether a queue is well, in one sentence and an exit code, for cron, systemd and probes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from skunkqueue.cli.options import ANY_ROUTE, DURATION, desk_options
from skunkqueue.durations import span

if TYPE_CHECKING:
    from skunkqueue.metrics.survey import RouteState

WRONG: Final = 1
AWAY: Final = 2


@click.command(short_help="Say whether a queue is well: exits with 0 or 1.")
@desk_options
@click.option("-r", "--route", type=ANY_ROUTE, metavar="ROUTE", help="Only of this route, whatever the priority.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="At least so many workers are alive.")
@click.option(
    "--oldest", type=DURATION, metavar="TIME", help="No run that could start has waited longer: 60s, 5m, 1h30m."
)
@click.option("--queued", type=click.IntRange(min=0), metavar="N", help="At most so many runs wait that could start.")
def check(url: str | None, queue: str | None, as_json: bool, route: str | None, **wanted: Any) -> None:
    """Say in a sentence whether a queue is well. Exits with 0 if so, with 1 if not, with 2 if the store is away.

    \b
    skunq check -q demo                               the store answers
    skunq check -q demo --workers 1 --oldest 60s

    What is due later does not wait. For cron, systemd and probes; for numbers over time: skunq metrics.
    """
    from skunkqueue.cli import output
    from skunkqueue.cli.desk import Desk
    from skunkqueue.errors import StoreError
    from skunkqueue.metrics.survey import survey

    try:
        desk = Desk(url, queue)
        routes = [each for each in survey(desk.store, now=desk.now, queue=queue) if route in (None, each.route)]
    except StoreError as error:
        output.complain(str(error))
        click.get_current_context().exit(AWAY)
    found = _sums(routes)
    wrong = list(_wrong(found, wanted))
    if wrong and found["unknown"]:
        wrong.append(f"{_count(found['unknown'], 'run')} of a job that a worker could not have: {found['why_unknown']}")
    where = desk.where if route is None else f"route {route} of {desk.where}"
    if as_json:
        output.print_json({"ok": not wrong, "wrong": wrong, **found})
    elif wrong:
        output.say(f"{where}: {'; '.join(wrong)}", err=True)  # as cron sends what comes there
    else:
        output.say(f"{where} is well: {_told(found)}")
    click.get_current_context().exit(WRONG if wrong else 0)


def _sums(routes: Sequence[RouteState]) -> dict[str, Any]:
    known = [route.oldest for route in routes if route.oldest is not None]
    return {
        "workers": sum(route.workers for route in routes),
        "queued": sum(route.queued for route in routes),
        "unknown": sum(route.unknown for route in routes),
        "why_unknown": next((route.why for route in routes if route.unknown), ""),
        "running": sum(route.running for route in routes),
        "oldest_seconds": round(max(known, default=0.0), 3) if len(known) == len(routes) else None,
    }


def _wrong(found: dict[str, Any], wanted: dict[str, Any]) -> Iterator[str]:
    """What is not as wanted, a clause for each."""
    workers, oldest, queued = wanted["workers"], wanted["oldest"], wanted["queued"]
    if workers is not None and found["workers"] < workers:
        yield f"{_count(found['workers'], 'worker')} alive, wanted {workers:,} or more"
    if oldest is not None and found["oldest_seconds"] is None:
        yield "the store does not say how long the oldest run has waited"
    elif oldest is not None and found["oldest_seconds"] > oldest:
        yield f"the oldest run has waited {span(found['oldest_seconds'])}, wanted {span(oldest)} or less"
    if queued is not None and found["queued"] > queued:
        yield f"{_count(found['queued'], 'run')} queued, wanted {queued:,} or fewer"


def _told(found: dict[str, Any]) -> str:
    oldest = found["oldest_seconds"]
    waited = f", the oldest for {span(oldest)}" if oldest is not None and found["queued"] else ""
    return f"{_count(found['workers'], 'worker')}, {found['running']:,} running, {found['queued']:,} queued{waited}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
