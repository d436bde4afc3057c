"""skunq schedules: list what runs again and again, pause, resume and fire it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from skunkqueue.cli.options import DURATION, QUEUE, ROUTE, json_option, url_option
from skunkqueue.errors import WrongCall

if TYPE_CHECKING:
    from skunkqueue.queue import SkunkQueue
    from skunkqueue.schedules.desk import Schedule

COLUMNS = ("NAME", "EVERY", "NEXT", "LAST", "STATE", "JOB")


def one_queue(command: Any) -> Any:
    """``-q``, which has to be given."""
    return click.option("-q", "--queue", type=QUEUE, metavar="QUEUE", required=True, help="The queue.")(command)


def for_option(command: Any) -> Any:
    """``--for``: how long."""
    return click.option("--for", "time", type=DURATION, metavar="TIME", help="For so long, like 90s, 30m, 1h or 2d.")(
        command
    )


def opened(url: str | None, queue: str) -> SkunkQueue:
    """The queue, closed when the command ends."""
    from skunkqueue.queue import SkunkQueue

    found = SkunkQueue(queue, url)
    click.get_current_context().call_on_close(found.close)
    return found


@click.command(short_help="List what runs again and again, pause and fire it.")
@url_option
@one_queue
@json_option
@for_option
@click.argument("verb", type=click.Choice(["pause", "resume", "fire"]), required=False, metavar="[pause|resume|fire]")
@click.argument("name", required=False)
def schedules(
    url: str | None, queue: str, as_json: bool, time: float | None, verb: str | None, name: str | None
) -> None:
    """List the schedules of a queue: when each runs next, and what became of its last run. With a verb and a name: have
    one make no runs, make runs again, or run now.

    \b
    skunq schedules -q demo
    skunq schedules -q demo pause bob-digest --for 1h
    skunq schedules -q demo fire bob-digest
    """
    from skunkqueue.cli import output

    if (verb is None) != (name is None) or (time is not None and verb != "pause"):
        raise click.UsageError("pause, resume and fire are given the name of a schedule, and --for is for pause")
    found = opened(url, queue)
    if verb is None or name is None:
        _list(found, as_json)
        return
    sentence, document = _DO[verb](found, name, time)
    if as_json:
        output.print_json({"schedule": name, **document})
    else:
        output.say(sentence)


@click.command(short_help="Have workers start no run of a route.")
@url_option
@one_queue
@json_option
@for_option
@click.option("-r", "--route", type=ROUTE, metavar="ROUTE", help="The route; without it, what is paused is listed.")
def pause(url: str | None, queue: str, as_json: bool, time: float | None, route: str | None) -> None:
    """Have all workers start no further run of a route: what runs ends as usual, what is fired waits. Without a route,
    list what is paused.

    \b
    skunq pause -q demo -r mail --for 1h
    skunq pause -q demo
    """
    from skunkqueue.cli import output

    found = opened(url, queue)
    if route is not None:
        found.pause(route, time)
    elif time is not None:
        raise click.UsageError("--for is for a route, given with -r")
    paused = found.paused()
    if as_json:
        output.print_json({name: until and until.isoformat() for name, until in paused.items()})
    elif paused:
        for name, until in paused.items():
            output.say(f"{name} is paused{'' if until is None else f' until {_short(until)}'}")
    else:
        output.say(f"no route of queue {queue} is paused", err=True)


@click.command(short_help="Have workers take up a paused route again.")
@url_option
@one_queue
@json_option
@click.option("-r", "--route", type=ROUTE, metavar="ROUTE", required=True, help="The route.")
def resume(url: str | None, queue: str, as_json: bool, route: str) -> None:
    """Have workers take up a route again that is paused.

    \b
    skunq resume -q demo -r mail
    """
    from skunkqueue.cli import output

    if not opened(url, queue).resume(route):
        raise WrongCall(f"route {route} of queue {queue} is not paused")
    if as_json:
        output.print_json({route: "resumed"})
    else:
        output.say(f"{route} resumed")


def _pause(queue: SkunkQueue, name: str, seconds: float | None) -> tuple[str, dict[str, Any]]:
    queue.pause_schedule(name, seconds)
    return f"{name} paused", {"paused": True}


def _resume(queue: SkunkQueue, name: str, _: float | None) -> tuple[str, dict[str, Any]]:
    if not queue.resume_schedule(name):
        raise WrongCall(f"{name} is not paused")
    return f"{name} resumed", {"paused": False}


def _fire(queue: SkunkQueue, name: str, _: float | None) -> tuple[str, dict[str, Any]]:
    from skunkqueue.run import Run

    fired = queue.fire_schedule(name)
    ids = [fired.id] if isinstance(fired, Run) else [run.id for run in fired]
    return "\n".join(ids), {"runs": ids}


_DO = {"pause": _pause, "resume": _resume, "fire": _fire}


def _list(queue: SkunkQueue, as_json: bool) -> None:
    from skunkqueue.cli import output

    found = queue.schedules()
    if as_json:
        output.print_json_rows(_row(schedule) for schedule in found)
    elif found:
        output.print_table(COLUMNS, (list(_cells(schedule)) for schedule in found))
    else:
        output.say(
            f"no schedules on queue {queue.name} of {queue.url}; those in code are made by workers that import it: "
            f"skunq work -q {queue.name} --import MODULE",
            err=True,
        )


def _row(schedule: Schedule) -> dict[str, Any]:
    return {
        "name": schedule.name,
        "job": schedule.job,
        "routes": list(schedule.routes),
        "every": schedule.every,
        "zone": schedule.zone,
        "missed": schedule.missed,
        "overlap": schedule.overlap,
        "next": schedule.next and schedule.next.isoformat(),
        "due": schedule.due and schedule.due.isoformat(),
        "last": schedule.last and schedule.last.id,
        "state": schedule.state,
        "paused": schedule.paused,
        "until": schedule.until and schedule.until.isoformat(),
    }


def _cells(schedule: Schedule) -> Iterator[str]:
    yield schedule.name
    yield f"{schedule.every} {schedule.zone}" if schedule.zone not in (None, "UTC") else schedule.every
    until = "" if schedule.until is None else f" until {_short(schedule.until)}"
    yield f"paused{until}" if schedule.paused else _short(schedule.next) or "when its run has ended"
    yield _short(schedule.due)
    yield schedule.state or ""
    yield schedule.job


def _short(moment: Any) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}"
