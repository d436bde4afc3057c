"""Which runs a command is about: ids, or endings of ids, or everything that fits the filters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple, TypeVar

import click

from skunkqueue.cli.options import ANY_ROUTE, STATE, checked
from skunkqueue.durations import seconds
from skunkqueue.envelope import Record, State
from skunkqueue.errors import WrongCall
from skunkqueue.facts import job_of
from skunkqueue.printable import said
from skunkqueue.times import since_epoch

Command = TypeVar("Command", bound=Callable[..., Any])

ID_LENGTH: Final = 28


class Which(NamedTuple):
    """Filters; None does not filter. ``since`` are seconds ago, or a time; ``error`` is a part of the error."""

    route: str | None = None
    state: State | None = None
    job: str | None = None
    since: float | datetime | None = None
    error: str | None = None

    @property
    def is_any(self) -> bool:
        """Whether it filters at all."""
        return any(each is not None for each in self)

    def from_time(self, now: float) -> float | None:
        """The store time from which runs are wanted."""
        if isinstance(self.since, datetime):
            return since_epoch(self.since)
        return None if self.since is None else now - self.since

    def fits(self, record: Record, start: float | None) -> bool:
        """Whether a record fits what no store filters by."""
        return (
            (self.job is None or self.job in _names(record))
            and (start is None or fired_at(record) >= start)
            and (self.error is None or self.error.lower() in (record.error or "").lower())
        )


def _names(record: Record) -> tuple[str, ...]:
    """What a job can be called: its whole name, or the function's."""
    name = job_of(record.envelope) or ""
    return name, name.rpartition(":")[2], name.rpartition(".")[2]


def fired_at(record: Record) -> float:
    """When it was fired, as its id says; when it was due, for an id of somebody else."""
    try:
        return int(record.id[:12], 16) / 1000 if len(record.id) == ID_LENGTH else record.envelope.due
    except ValueError:
        return record.envelope.due


def _since(value: str) -> float | datetime:
    try:
        return seconds(value, "since")
    except WrongCall:
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            raise WrongCall(f"{said(value)} is no time: give how long ago, as 90s, 5m, 1h30m, or a date") from None


def filter_options(command: Command) -> Command:
    """``--route``, ``--state``, ``--job``, ``--since``, ``--error``."""
    for option in (
        click.option("--error", metavar="TEXT", help="Only with this in their error."),
        click.option("--since", type=checked(_since), metavar="TIME", help="Only fired since: 90s, 1h30m, 2026-12-01."),
        click.option("--job", metavar="NAME", help="Only of this job."),
        click.option("--state", type=STATE, metavar="STATE", help=f"Only in this state: {', '.join(State)}."),
        click.option("-r", "--route", type=ANY_ROUTE, metavar="ROUTE", help="Only of this route."),
    ):
        command = option(command)
    return command


def short_ids(records: Sequence[Record], least: int = 8) -> Iterator[str]:
    """The ends of their ids, as long as it takes to tell them apart."""
    ids = [record.id for record in records]
    length = least
    while length < ID_LENGTH and len({id[-length:] for id in ids}) < len(set(ids)):
        length += 2
    return (id[-length:] for id in ids)
