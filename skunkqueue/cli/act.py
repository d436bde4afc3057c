"""skunq cancel, promote, retry, delete and purge: the commands that change runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import click

from skunkqueue.cli.options import RUN_ID, desk_options
from skunkqueue.cli.which import Which, filter_options
from skunkqueue.envelope import OPEN, Record, State
from skunkqueue.limits.turns import start_limited
from skunkqueue.persistence import REMEMBERED
from skunkqueue.persistence.halves import by_halves
from skunkqueue.printable import printable

if TYPE_CHECKING:
    from skunkqueue.cli.desk import Desk

Command = TypeVar("Command", bound=Callable[..., Any])

PAGE = 500

_IS = {State.SUCCEEDED: "succeeded", State.FAILED: "failed", State.CANCELLED: "was cancelled"}

# -- which -----------------------------------------------------------------------------------------------------------


def many_options(command: Command) -> Command:
    """IDs, or filters and ``--yes``."""
    for decorate in (
        click.argument("ids", type=RUN_ID, metavar="[ID...]", nargs=-1),
        filter_options,
        click.option("--yes", is_flag=True, help="Do it to all that match, without asking."),
    ):
        command = decorate(command)
    return command


class Taken(NamedTuple):
    """The runs that a command is about: ``known`` are there, ``missing`` are not, with the reason."""

    desk: Desk
    known: dict[str, Record]
    missing: dict[str, str]
    total: str | None = None  # of how many this is told in one sentence


def _taken(
    url: str | None, queue: str | None, ids: Sequence[str], which: Which, yes: bool, verb: str, fit: Collection[State]
) -> Taken:
    """What the ids name, or what the filters fit and is in a state that ``fit`` has: told first, and asked for."""
    from skunkqueue.cli.desk import Desk

    if bool(ids) == which.is_any:
        filters = "--state, --job, --route, --since or --error"
        raise click.UsageError(f"{verb} wants IDs, or {filters} for all that match, and not both")
    desk = Desk(url, queue)
    if ids:
        meant = desk.ids_of(ids)
        known = desk.records(list(meant.values()))
        return Taken(desk, known, {id: desk.no_run(id) for id in meant.values() if id not in known})
    found = {record.id: record for record in desk.find(which) if record.state in fit}
    number = _runs(len(found))
    if found:
        _ask(f"{number} of {desk.where} match: {verb} {'them' if len(found) > 1 else 'it'}?", yes)
    return Taken(desk, found, {}, number if len(found) != 1 else None)


def _ask(question: str, yes: bool) -> None:
    """Go on only if somebody agrees. Where nobody can be asked, ``--yes`` must have said so."""
    from skunkqueue.cli import output

    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} To do so without being asked, give --yes")
    if not click.confirm(printable(question), err=True):
        output.say("nothing was done", err=True)
        click.get_current_context().exit(1)


# -- cancel ----------------------------------------------------------------------------------------------------------


@click.command(short_help="Cancel runs, interrupting those that run.")
@desk_options
@many_options
def cancel(ids: Sequence[str], url: str | None, queue: str | None, as_json: bool, yes: bool, **which: Any) -> None:
    """Cancel runs: those that wait will not start, those that run are interrupted.

    \b
    skunq cancel 2c3d4e5f
    skunq cancel -q demo --job send --state scheduled
    """
    found = _taken(url, queue, ids, Which(**which), yes, "cancel", OPEN)
    taken: set[str] = set()
    for page in _pages(found.known):
        taken |= {record.id for record in _cancel(found.desk, page)}
    refused = {id: _why_not_cancelled(record) for id, record in found.known.items() if id not in taken}
    _report("cancelled", taken, {**refused, **found.missing}, as_json, found.total)


def _cancel(desk: Desk, ids: Sequence[str]) -> list[Record]:
    cancelled = desk.store.cancel(ids, now=desk.now) if ids else []
    for record in cancelled:
        if record.worker is not None:
            desk.store.tell(record.worker, f"cancel {record.id}")
    return cancelled


def _why_not_cancelled(record: Record) -> str:
    return f"run {record.id} had ended before: it {_IS.get(record.state, 'has just done so')}"


# -- promote ---------------------------------------------------------------------------------------------------------


@click.command(short_help="Run now what is scheduled or waits for its retry.")
@desk_options
@many_options
def promote(ids: Sequence[str], url: str | None, queue: str | None, as_json: bool, yes: bool, **which: Any) -> None:
    """Run now what is scheduled for later, or waits for its retry.

    \b
    skunq promote 2c3d4e5f
    skunq promote -q demo --state scheduled --job send
    """
    found = _taken(url, queue, ids, Which(**which), yes, "promote", {State.QUEUED})
    taken: set[str] = set()
    for page in _pages(found.known):
        promoted = found.desk.store.promote(page, now=found.desk.now)
        start_limited(found.desk.store, list(promoted), found.desk.now)
        taken |= promoted
    refused = {id: _why_not_promoted(record) for id, record in found.known.items() if id not in taken}
    _report("promoted", taken, {**refused, **found.missing}, as_json, found.total)


def _why_not_promoted(record: Record) -> str:
    has = _IS.get(record.state, f"is {record.state}")
    return f"run {record.id} {has}; only what is queued for later can be promoted"


# -- retry -----------------------------------------------------------------------------------------------------------


@click.command(short_help="Run failed or cancelled runs again.")
@desk_options
@many_options
@click.option("--failed", is_flag=True, help="All that failed, without asking.")
@click.option("--like", type=RUN_ID, metavar="ID", help="All that failed as this run did: see `skunq errors`.")
def retry(
    ids: Sequence[str],
    failed: bool,
    like: str | None,
    url: str | None,
    queue: str | None,
    as_json: bool,
    yes: bool,
    **which: Any,
) -> None:
    """Queue failed or cancelled runs again, as if they had never run.

    \b
    skunq retry 2c3d4e5f
    skunq retry -q demo --failed
    skunq retry --job send --since 1h --error timeout
    skunq retry --like 2c3d4e5f
    """
    from skunkqueue.cli.desk import Desk
    from skunkqueue.cli.failures import all_like

    if failed + bool(ids) + (like is not None) > 1:
        raise click.UsageError("retry wants IDs, or --failed for all that failed, or --like ID, and not several")
    if failed and not Which(**which).is_any:
        desk = Desk(url, queue)
        taken, refused = _reopen(desk, desk.find(Which(state=State.FAILED), values=0))
        _report("queued again", taken, refused, as_json, f"{len(taken):,} failed runs of {desk.where}")
        return
    if like is not None:
        ids = all_like(Desk(url, queue), like)
        _ask(f"{len(ids):,} runs failed as {like} did: retry them?", yes)
    if failed:
        which["state"], yes = State.FAILED, True
    found = _taken(url, queue, ids, Which(**which), yes, "retry", {State.FAILED, State.CANCELLED})
    taken, refused = _reopen(found.desk, found.known.values())
    total = f"{len(taken):,} runs" if like is not None and len(taken) > 1 else found.total
    _report("queued again", taken, {**refused, **found.missing}, as_json, total)


def _reopen(desk: Desk, records: Iterable[Record]) -> tuple[set[str], dict[str, str]]:
    """Queue them again, page by page; returns the ids of those queued, and for the others the reason."""
    taken: set[str] = set()
    refused: dict[str, str] = {}
    coming = iter(records)
    while page := list(islice(coming, PAGE)):
        done, failed = by_halves(lambda some: desk.store.reopen(some, now=desk.now), [record.id for record in page])
        reopened = set().union(*done)
        taken |= reopened
        start_limited(desk.store, list(reopened), desk.now)
        refused.update({record.id: _why_not_reopened(record) for record in page if record.id not in reopened})
        refused.update({id: f"run {id} cannot be queued again: {error}" for id, error in failed})
    return taken, refused


def _why_not_reopened(record: Record) -> str:
    if record.state in (State.FAILED, State.CANCELLED):
        return f"run {record.id} cannot be queued again: it has expired, or another open run has its unique key"
    has = _IS.get(record.state, f"is {record.state}")
    return f"run {record.id} {has}; only failed and cancelled runs can be queued again"


# -- delete ----------------------------------------------------------------------------------------------------------

ENDED: Final = frozenset(_IS)


@click.command(short_help="Delete runs that have ended.")
@desk_options
@many_options
def delete(ids: Sequence[str], url: str | None, queue: str | None, as_json: bool, yes: bool, **which: Any) -> None:
    """Delete runs that have ended, with their results, before the time for which they are kept. Cancel those first that
    have not ended. A run that ended less than a minute ago is deleted when that minute is over.

    \b
    skunq delete 2c3d4e5f
    skunq delete -q demo --job send --state failed
    """
    found = _taken(url, queue, ids, Which(**which), yes, "delete", ENDED)
    desk, taken = found.desk, set[str]()
    for page in _pages(found.known):
        taken |= desk.store.discard(page, now=desk.now)
    _clear_away(desk)
    later = {record.id for record in found.known.values() if record.id in taken and _is_remembered(record, desk.now)}
    refused = {id: _why_not_deleted(record) for id, record in found.known.items() if id not in taken}
    gone = taken - later
    total = found.total if not later or found.total is None else _runs(len(gone))
    _report("deleted", gone, {**refused, **found.missing}, as_json, total, later=later)


def _clear_away(desk: Desk) -> int:
    """Purge all that is over; returns how much that was."""
    cleared = 0
    while done := desk.store.purge(now=desk.now):
        cleared += done
    return cleared


def _is_remembered(record: Record, now: float) -> bool:
    """Whether its id is remembered still, so that a put that is repeated does not run it again."""
    return record.ended is not None and record.ended + REMEMBERED > now


def _why_not_deleted(record: Record) -> str:
    return f"run {record.id} is {record.state}; only runs that have ended can be deleted: cancel it first"


def _runs(number: int) -> str:
    return f"{number:,} runs" if number != 1 else "1 run"


def _pages(ids: Iterable[str]) -> Iterator[list[str]]:
    """The ids, as many at a time as a store is asked for."""
    coming = iter(ids)
    while page := list(islice(coming, PAGE)):
        yield page


# -- reports -----------------------------------------------------------------------------------------------------------


def _report(
    verb: str,
    taken: set[str],
    refused: Mapping[str, str],
    as_json: bool,
    total: str | None = None,
    *,
    later: Collection[str] = (),
) -> None:
    """Print what was done, what will be within a minute and, as errors, what was not; exits with 1 if there is any of
    those."""
    from skunkqueue.cli import output

    with output.as_far_as_possible():
        if as_json:
            done = ({"id": id, "done": True, "error": None} for id in sorted([*taken, *later]))
            left = ({"id": id, "done": False, "error": why} for id, why in refused.items())
            output.print_json_rows(chain(done, left))
        else:
            for sentence in [total] if total is not None else sorted(taken):
                output.say(f"{sentence} {verb}")
            for sentence in [_runs(len(later))] if total is not None and later else sorted(later):
                output.say(f"{sentence} ended less than a minute ago: {verb} when that is over")
    for why in refused.values():
        output.complain(why)
    if refused:
        click.get_current_context().exit(1)


# -- purge -----------------------------------------------------------------------------------------------------------


@click.command(short_help="Clear away what nobody needs any more.")
@desk_options
def purge(url: str | None, queue: str | None, as_json: bool) -> None:
    """Clear away what nobody needs any more: ended runs past the time they are kept, expired runs, and runs for workers
    that are gone. Pools do the same while they work. It covers the whole store; -q limits only the counts shown.

    \b
    skunq purge
    """
    from skunkqueue.cli import output
    from skunkqueue.cli.desk import Desk

    desk = Desk(url, queue)
    cleared = _clear_away(desk)
    with output.as_far_as_possible():
        if as_json:
            output.print_json({"purged": cleared, "left": desk.counts()})
        else:
            what = "run, order or worker" if cleared == 1 else "runs, orders and workers"
            output.say(f"{cleared:,} {what} cleared away; {desk.summary()}")
