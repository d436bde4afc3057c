"""skunq cancel, promote, retry and purge: the commands that change runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING

import click

from skunkqueue.cli.options import desk_options
from skunkqueue.envelope import State

if TYPE_CHECKING:
    from skunkqueue.cli.desk import Desk
    from skunkqueue.envelope import Record


PAGE = 500

_IS = {State.SUCCEEDED: "succeeded", State.FAILED: "failed", State.CANCELLED: "was cancelled"}

# -- cancel ----------------------------------------------------------------------------------------------------------


@click.command(short_help="Cancel runs, interrupting those that run.")
@desk_options
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
def cancel(ids: Sequence[str], url: str | None, queue: str | None, as_json: bool) -> None:
    """Cancel runs: those that wait will not start, those that run are interrupted.

    \b
    skunq cancel 0196f3a2b8c15f0e6d1b2c3d4e5f
    """
    from skunkqueue.cli.desk import Desk

    desk = Desk(url, queue)
    known = desk.records(ids)
    taken = {record.id for record in _cancel(desk, list(known))}
    refused = {id: _why_not_cancelled(record) for id, record in known.items() if id not in taken}
    _report("cancelled", taken, {**refused, **_missing(desk, ids, known)}, as_json)


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
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
def promote(ids: Sequence[str], url: str | None, queue: str | None, as_json: bool) -> None:
    """Run now what is scheduled for later, or waits for its retry.

    \b
    skunq promote 0196f3a2b8c15f0e6d1b2c3d4e5f
    """
    from skunkqueue.cli.desk import Desk

    desk = Desk(url, queue)
    known = desk.records(ids)
    taken = desk.store.promote(list(known), now=desk.now) if known else set()
    refused = {id: _why_not_promoted(record) for id, record in known.items() if id not in taken}
    _report("promoted", taken, {**refused, **_missing(desk, ids, known)}, as_json)


def _why_not_promoted(record: Record) -> str:
    has = _IS.get(record.state, f"is {record.state}")
    return f"run {record.id} {has}; only what is queued for later can be promoted"


# -- retry -----------------------------------------------------------------------------------------------------------


@click.command(short_help="Run failed or cancelled runs again.")
@desk_options
@click.argument("ids", metavar="[ID...]", nargs=-1)
@click.option("--failed", is_flag=True, help="All that failed, instead of IDs.")
def retry(ids: Sequence[str], failed: bool, url: str | None, queue: str | None, as_json: bool) -> None:
    """Queue failed or cancelled runs again, as if they had never run.

    \b
    skunq retry 0196f3a2b8c15f0e6d1b2c3d4e5f
    skunq retry -q demo --failed
    """
    from skunkqueue.cli.desk import Desk

    if failed == bool(ids):
        raise click.UsageError("retry wants IDs, or --failed for all that failed; one of the two")
    desk = Desk(url, queue)
    if failed:
        taken, refused = _reopen(desk, desk.find(state=State.FAILED))
        _report("queued again", taken, refused, as_json, total=f"{len(taken):,} failed runs of {desk.where}")
    else:
        known = desk.records(ids)
        taken, refused = _reopen(desk, known.values())
        _report("queued again", taken, {**refused, **_missing(desk, ids, known)}, as_json)


def _reopen(desk: Desk, records: Iterable[Record]) -> tuple[set[str], dict[str, str]]:
    """Queue them again, page by page; gives the ids that took, and why the others did not."""
    taken: set[str] = set()
    refused: dict[str, str] = {}
    coming = iter(records)
    while page := list(islice(coming, PAGE)):
        reopened = desk.store.reopen([record.id for record in page], now=desk.now)
        taken |= reopened
        refused.update({record.id: _why_not_reopened(record) for record in page if record.id not in reopened})
    return taken, refused


def _why_not_reopened(record: Record) -> str:
    if record.state in (State.FAILED, State.CANCELLED):
        return f"run {record.id} cannot be queued again: it has expired, or another open run has its unique key"
    has = _IS.get(record.state, f"is {record.state}")
    return f"run {record.id} {has}; only failed and cancelled runs can be queued again"


# -- what became of it -----------------------------------------------------------------------------------------------


def _missing(desk: Desk, ids: Iterable[str], known: Mapping[str, Record]) -> dict[str, str]:
    return {id: desk.no_run(id) for id in ids if id not in known}


def _report(verb: str, taken: set[str], refused: Mapping[str, str], as_json: bool, total: str | None = None) -> None:
    """Say what took, complain about the others; leave with 1 if there are any."""
    from skunkqueue.cli import output

    if as_json:
        done = ({"id": id, "done": True, "error": None} for id in sorted(taken))
        output.print_json_rows(chain(done, ({"id": id, "done": False, "error": why} for id, why in refused.items())))
    elif total is not None:
        output.say(f"{total} {verb}")
    else:
        for id in sorted(taken):
            output.say(f"{id} {verb}")
    for why in refused.values():
        output.complain(why)
    if refused:
        click.get_current_context().exit(1)


# -- purge -----------------------------------------------------------------------------------------------------------


@click.command(short_help="Clear away what nobody needs any more.")
@desk_options
def purge(url: str | None, queue: str | None, as_json: bool) -> None:
    """Clear away what nobody needs any more: ended runs past the time they are kept, expired runs, and runs for workers
    that are gone. It is done on the whole store, as pools do while they work; -q says whose runs are counted after it.

    \b
    skunq purge
    """
    from skunkqueue.cli import output
    from skunkqueue.cli.desk import Desk

    desk = Desk(url, queue)
    cleared = 0
    while done := desk.store.purge(now=desk.now):
        cleared += done
    if as_json:
        output.print_json({"purged": cleared, "left": desk.counts()})
    else:
        output.say(f"{cleared:,} cleared away; {desk.summary()}")
