"""Runs as rows for people and programs: what a store knows of them, read without unpickling anything."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from skunkqueue.codec import decode_value, is_pickled
from skunkqueue.envelope import Head, Record, State, peek_head
from skunkqueue.errors import PayloadError
from skunkqueue.policy import decode_notes
from skunkqueue.run import attempts

LONGEST_INT = 10_000
"""Bits of an int that is written in decimal; Python refuses far longer ones."""


class Words(str):
    """What is said in place of a value that is not shown; bears no quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def row(record: Record, now: float) -> dict[str, Any]:
    """What every list of runs has of one; times are ISO 8601, UTC."""
    envelope = record.envelope
    return {
        "id": record.id,
        "queue": envelope.queue,
        "route": envelope.route,
        "job": job_of(record),
        "state": str(record.shown(now)),
        "result": jsonable(result_of(record)),
        "error": record.error,
        "attempts": attempts(record),
        "due": iso(envelope.due),
        "progress": record.progress,
        "note": record.note,
    }


def full_row(record: Record, now: float) -> dict[str, Any]:
    """All there is to say of one."""
    envelope, head = record.envelope, head_of(record)
    running = record.state == State.RUNNING
    return {
        **row(record, now),
        "ref": head.ref if head else None,
        "retries": head.seal.retries if head else None,
        "unique": unique_of(record),
        "expires": iso(envelope.expires),
        "next": iso(record.ripe) if record.state == State.QUEUED else None,
        "worker": record.worker if running else None,
        "leased_until": iso(record.ripe) if running else None,
        "ended": iso(record.ended),
        "kept_until": None if record.open else iso(record.ripe),
        "lapses": record.lapses,
        "deaths": deaths(record),
        "traceback": traceback_of(record),
    }


def head_of(record: Record) -> Head | None:
    """What its sender decided; None where it cannot be read."""
    try:
        return peek_head(record.envelope.body)
    except PayloadError:
        return None


def job_of(record: Record) -> str | None:
    """The job's name; None where the envelope cannot be read."""
    head = head_of(record)
    return (head.name or head.ref) if head else None


def unique_of(record: Record) -> str | None:
    """The unique key as people gave it; stored, the job's name stands before it."""
    unique = record.envelope.unique
    return None if unique is None else unique.rpartition("\n")[2]


def deaths(record: Record) -> list[str]:
    """The signals and exit codes of the workers that died of it."""
    return list(decode_notes(record.notes).deaths)


def result_of(record: Record) -> Any:
    """The value of a run that succeeded; Words where it cannot be read without unpickling, or at all."""
    if record.state != State.SUCCEEDED or record.value is None:
        return None
    if is_pickled(record.value):
        return Words(f"<pickled, {len(record.value)} bytes>")
    try:
        return decode_value(record.value)
    except PayloadError:
        return Words(f"<cannot be read, {len(record.value)} bytes>")


def traceback_of(record: Record) -> str | None:
    """The remote traceback of a failed run, as text."""
    if record.state != State.FAILED or record.value is None or is_pickled(record.value):
        return None
    try:
        return str(decode_value(record.value)["traceback"]) or None
    except (PayloadError, LookupError, TypeError):
        return None


def outcome(record: Record) -> str:
    """For people: what became of it, or how far it is."""
    if record.state == State.SUCCEEDED:
        return text(result_of(record))
    return progress(record) if record.state == State.RUNNING else record.error or ""


def progress(record: Record) -> str:
    """For people: how far a job says it is."""
    return "" if record.progress is None else f"{record.progress:.0%} {record.note or ''}".rstrip()


def text(value: Any) -> str:
    """A plain value as Python writes it."""
    try:
        return repr(value)
    except (ValueError, RecursionError):  # an int of many thousand digits, or nested that deep
        return "<too long to show>"


def jsonable(value: Any) -> Any:
    """A plain value as JSON has it: sets and tuples are lists, what JSON has no word for is text."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value if value.bit_length() <= LONGEST_INT else hex(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {key if isinstance(key, str) else text(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(item) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return value.isoformat() if isinstance(value, datetime) else str(value)


def iso(time: float | None) -> str | None:
    """A time for programs."""
    moment = _moment(time)
    return None if moment is None else moment.isoformat(timespec="milliseconds")


def local(time: float | None) -> str:
    """A time for people."""
    moment = _moment(time)
    return "" if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def short(time: float, now: float) -> str:
    """A time for people, beside many others: without the day where that is today."""
    told, today = local(time), local(now)
    return told[11:] if told[:10] == today[:10] else told[:16]


def _moment(time: float | None) -> datetime | None:
    try:
        return None if time is None else datetime.fromtimestamp(time, UTC)
    except (ValueError, OverflowError, OSError):
        return None  # beyond the year 9999: for ever
