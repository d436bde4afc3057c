"""skunq errors: failed runs, grouped by what they failed with and where."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from skunkqueue.cli.options import desk_options
from skunkqueue.cli.which import Which, filter_options, fired_at, short_ids
from skunkqueue.codec import decode_value, is_pickled
from skunkqueue.envelope import Record, State
from skunkqueue.errors import PayloadError, WrongCall
from skunkqueue.facts import job_of

if TYPE_CHECKING:
    from skunkqueue.cli.desk import Desk

_FRAME: Final = re.compile(r'^  File "(.*)", line (\d+), in (.*)$', re.MULTILINE)
_NUMBER: Final = re.compile(r"0x[0-9a-fA-F]+|\d+")


class Cause(NamedTuple):
    """What makes failures alike: the type of the error, and the place where it was raised.

    Without a traceback, the error itself, its numbers left out, stands in for the place.
    """

    type: str
    place: str


class Group(NamedTuple):
    """Failed runs of one cause, newest first."""

    cause: Cause
    runs: list[Record]

    @property
    def last(self) -> float:
        return max(map(_failed_at, self.runs))

    @property
    def first(self) -> float:
        return min(map(_failed_at, self.runs))


def cause_of(record: Record) -> Cause:
    """The cause of a failed run; nothing is unpickled for it."""
    details = _details(record)
    frames = _FRAME.findall(details.get("traceback", ""))
    kind = details.get("type") or (record.error or "").partition(":")[0]
    if frames:
        file, line, function = frames[-1]
        return Cause(kind, f"{re.split(r'[/]', file)[-1]}:{line} {function}")
    return Cause(kind, _NUMBER.sub("#", record.error or ""))


def _details(record: Record) -> dict[str, str]:
    if record.value is None or is_pickled(record.value):
        return {}
    try:
        found = decode_value(record.value)
    except PayloadError:
        return {}
    return {name: str(value) for name, value in found.items()} if isinstance(found, dict) else {}


def _failed_at(record: Record) -> float:
    return fired_at(record) if record.ended is None else record.ended


def grouped(records: Iterable[Record]) -> list[Group]:
    """The groups, the one that failed last first."""
    groups: dict[Cause, list[Record]] = {}
    for record in records:
        groups.setdefault(cause_of(record), []).append(record)
    return sorted((Group(*each) for each in groups.items()), key=lambda group: group.last, reverse=True)


def all_like(desk: Desk, given: str) -> Sequence[str]:
    """The ids of all runs that failed as this one did. Raises WrongCall where it did not fail."""
    id = desk.ids_of([given])[given]
    record = desk.records([id]).get(id)
    if record is None:
        raise WrongCall(desk.no_run(id))
    if record.state != State.FAILED:
        raise WrongCall(f"run {id} has not failed, it is {record.state}")
    cause = cause_of(record)
    return [each.id for each in desk.find(Which(state=State.FAILED)) if cause_of(each) == cause]


COLUMNS: Final = ("COUNT", "ERROR", "WHERE", "JOB", "FIRST", "LAST", "EXAMPLE")


@click.command(short_help="Group what failed by error and place.")
@desk_options
@filter_options
def errors(url: str | None, queue: str | None, as_json: bool, **which: Any) -> None:
    """Group the runs that failed by error and place: how many, the first and the last, and one of them to look at.

    \b
    skunq errors -q demo --since 1d
    skunq retry --like 2c3d4e5f       all that failed as that example did
    """
    from skunkqueue.cli import output
    from skunkqueue.cli.desk import Desk

    desk = Desk(url, queue)
    which["state"] = State.FAILED
    groups = grouped(desk.find(Which(**which)))
    if as_json:
        output.print_json_rows(_row(group) for group in groups)
    elif groups:
        examples = short_ids([group.runs[0] for group in groups])
        output.print_table(
            COLUMNS, [_cells(group, example, desk.now) for group, example in zip(groups, examples, strict=True)]
        )
    else:
        output.say(f"nothing has failed on {desk.where}", err=True)


def _cells(group: Group, example: str, now: float) -> list[str]:
    from skunkqueue.cli.rows import age_text

    newest = group.runs[0]
    return [
        f"{len(group.runs):,}", newest.error or group.cause.type, group.cause.place, job_of(newest.envelope) or "?",
        age_text(group.first, now), age_text(group.last, now), example,
    ]  # fmt: skip


def _row(group: Group) -> dict[str, Any]:
    from skunkqueue.cli.rows import iso

    newest = group.runs[0]
    return {
        "count": len(group.runs), "type": group.cause.type, "place": group.cause.place, "error": newest.error,
        "job": job_of(newest.envelope), "first": iso(group.first), "last": iso(group.last), "example": newest.id,
    }  # fmt: skip
