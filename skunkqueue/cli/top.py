"""skunq top: a live view of routes, workers and failures."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from skunkqueue.cli.options import DURATION, desk_options
from skunkqueue.durations import age
from skunkqueue.envelope import State, Want
from skunkqueue.facts import worker_label
from skunkqueue.ids import new_token
from skunkqueue.metrics.survey import FEW, put_off, unknown_since
from skunkqueue.routes import base_route, is_internal

if TYPE_CHECKING:
    from rich.console import RenderableType

    from skunkqueue.cli.desk import Desk

ROUTES: Final = ("ROUTE", "QUEUED", "OLDEST", "RUNNING", "IN/S", "OUT/S", "SUCCEEDED", "FAILED")
WORKERS: Final = ("WORKER", "ROUTES", "HOST", "PID", "RUNS", "DOING")
FAILURES: Final = ("COUNT", "ERROR", "WHERE", "LAST", "EXAMPLE")
MOST_FAILURES: Final = 500
"""Failed runs, the last ones, that are grouped."""
MOST_GROUPS: Final = 5
MOST_SUB_ROUTES: Final = 1000

Lane = tuple[str, str]
"""A queue and a route, all its priorities together."""


class Look(NamedTuple):
    """What one look at the store finds: runs by lane and state, at a time of the store."""

    at: float
    counts: Mapping[Lane, Mapping[str, int]]
    queued: Mapping[Lane, Sequence[str]] = MappingProxyType({})
    """The sub-routes where runs of a lane are queued."""


def look(desk: Desk) -> Look:
    """Count the runs of each route."""
    counts: dict[Lane, dict[str, int]] = {}
    queued: dict[Lane, list[str]] = {}
    for (queue, route, state), number in desk.store.count().items():
        if desk.queue in (None, queue) and not is_internal(route):
            if state == State.QUEUED:
                queued.setdefault((queue, base_route(route)), []).append(route)
            lane = counts.setdefault((queue, base_route(route)), dict.fromkeys(State, 0))
            lane[state] = lane.get(state, 0) + number
    return Look(desk.time(), counts, queued)


def rates(before: Look | None, now: Look, lane: Lane) -> tuple[float, float] | None:
    """Runs a second that came and that ended, between two looks; None at the first.

    What was purged in between is not seen, so that a rate may be too low, but is never below zero.
    """
    if before is None or now.at <= before.at:
        return None
    old, new = before.counts.get(lane, {}), now.counts[lane]

    def more(*states: State) -> int:
        return sum(new.get(state, 0) - old.get(state, 0) for state in states)

    ended = max(0, more(State.SUCCEEDED, State.FAILED, State.CANCELLED))
    came = max(0, more(State.QUEUED, State.RUNNING) + ended)
    return came / (now.at - before.at), ended / (now.at - before.at)


def oldest(desk: Desk, lane: Lane, now: Look) -> float | None:
    """For how many seconds the first queued run of a route could have started; None where none is waiting.

    One that no worker could have yet waits too.
    """
    routes = tuple(now.queued.get(lane, ())[:MOST_SUB_ROUTES])
    if not routes:
        return None
    want = Want(lane[0], routes, "skunq top", new_token(), 0)  # none is claimed
    ripe = desk.store.exchange((), [want], now=now.at, until=now.at).next_ripe
    since = [ripe] if ripe is not None and ripe <= now.at else []
    if now.counts[lane][State.QUEUED] <= FEW:
        later = put_off(desk.store, lane[0], base_route(lane[1]), now=now.at)
        since += [at for record in later if (at := unknown_since(record)) is not None]
    return max(0.0, now.at - min(since)) if since else None


def frame(desk: Desk, before: Look | None, now: Look) -> RenderableType:
    """One picture of it all."""
    from rich.console import Group
    from rich.text import Text

    from skunkqueue.cli.failures import grouped
    from skunkqueue.cli.look import abouts
    from skunkqueue.cli.output import is_wide, table
    from skunkqueue.cli.which import Which
    from skunkqueue.printable import printable

    parts: list[RenderableType] = [Text(printable(desk.where), style="bold")]
    lanes = sorted(
        now.counts, key=lambda lane: (-now.counts[lane][State.RUNNING], -now.counts[lane][State.QUEUED], lane)
    )
    parts.append(table(ROUTES, (_route(desk, before, now, lane) for lane in lanes)))
    workers = [about for about in abouts(desk) if desk.queue in (None, about.get("queue"))]
    if workers:
        parts += ["", table(WORKERS, (_worker(about, now.at) for about in workers), is_wide=is_wide())]
    else:
        parts += ["", Text("no workers", style="red")]
    groups = grouped(desk.find(Which(state=State.FAILED), MOST_FAILURES))[:MOST_GROUPS]
    if groups:
        parts += ["", table(FAILURES, _failures(groups, now.at))]
    return Group(*parts)


def _route(desk: Desk, before: Look | None, now: Look, lane: Lane) -> list[str]:
    from skunkqueue.cli.rows import route_text

    counts, rate, first = now.counts[lane], rates(before, now, lane), None
    if counts[State.QUEUED]:
        first = oldest(desk, lane, now)
    name = route_text(lane[1]) if desk.queue else f"{lane[0]} {route_text(lane[1])}"
    return [
        name, f"{counts[State.QUEUED]:,}", "" if first is None else age(first), f"{counts[State.RUNNING]:,}",
        *(("", "") if rate is None else (f"{rate[0]:,.1f}", f"{rate[1]:,.1f}")),
        f"{counts[State.SUCCEEDED]:,}", f"{counts[State.FAILED]:,}",
    ]  # fmt: skip


def _worker(about: Mapping[str, Any], now: float) -> list[str]:
    from skunkqueue.cli.look import doing

    routes = about.get("routes")
    listed = ", ".join(map(str, routes)) if isinstance(routes, list) else ""
    told = [str(about.get(name, "")) for name in ("host", "pid", "runs")]
    return [worker_label(about["worker"]), listed, *told, ", ".join(doing(about, now))]


def _failures(groups: Sequence[Any], now: float) -> Iterator[list[str]]:
    from skunkqueue.cli.rows import age_text
    from skunkqueue.cli.which import short_ids

    for group, example in zip(groups, short_ids([group.runs[0] for group in groups]), strict=True):
        error = group.runs[0].error or group.cause.type
        yield [f"{len(group.runs):,}", error, group.cause.place, age_text(group.last, now), example]


@click.command(short_help="Watch routes, workers and failures live.")
@desk_options
@click.option("--every", type=DURATION, default="2s", show_default=True, metavar="TIME", help="Between two looks.")
@click.option("--once", is_flag=True, help="Print one picture, and end.")
def top(url: str | None, queue: str | None, as_json: bool, every: float, once: bool) -> None:
    """Watch routes, workers and the last failures live, until Ctrl-C. Rates are seen from the second look on.

    \b
    skunq top -q demo
    skunq top --once
    """
    from skunkqueue.cli import output
    from skunkqueue.cli.desk import Desk

    desk = Desk(url, queue)
    if as_json:
        output.print_json(_document(desk))
    elif once or not sys.stdout.isatty():
        output.print_rich(frame(desk, None, look(desk)))
    else:
        _watch(desk, max(0.2, every))


def _watch(desk: Desk, every: float) -> None:
    from rich.live import Live

    before = look(desk)
    with Live(frame(desk, None, before), auto_refresh=False, screen=True) as live:
        while True:
            time.sleep(every)
            now = look(desk)
            live.update(frame(desk, before, now), refresh=True)
            before = now


def _document(desk: Desk) -> dict[str, Any]:
    from skunkqueue.cli.look import abouts

    now = look(desk)
    workers = [about for about in abouts(desk) if desk.queue in (None, about.get("queue"))]
    return {"routes": [_counted(desk, now, lane) for lane in sorted(now.counts)], "workers": workers}


def _counted(desk: Desk, now: Look, lane: Lane) -> dict[str, Any]:
    counts = now.counts[lane]
    first = oldest(desk, lane, now) if counts[State.QUEUED] else None
    stored = {str(state): counts[state] for state in State if state != State.SCHEDULED}
    return {"queue": lane[0], "route": lane[1], **stored, "oldest": first}
