"""Runs as rows for people and programs: what a store knows of them, read without unpickling anything."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Final

from skunkqueue.codec import decode_value, is_pickled
from skunkqueue.durations import age, span
from skunkqueue.envelope import GATED, Envelope, Record, State
from skunkqueue.errors import PayloadError
from skunkqueue.facts import Arguments, arguments_of, head_of, history, job_of, times, worker_label
from skunkqueue.limits.turns import terms_of
from skunkqueue.notes import decode_notes
from skunkqueue.routes import key_of_route, shown_route
from skunkqueue.run import attempts
from skunkqueue.times import as_local


class Words(str):
    """Text in place of a value that is not shown. Its repr has no quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def row(record: Record, now: float) -> dict[str, Any]:
    """A run as lists show it; times are ISO 8601, UTC. One that cannot be shown has few fields and an error."""
    try:
        return _row(record, now)
    except Exception as error:
        return {**dict.fromkeys(COLUMNS), **_least(record), "error": unshown(error)}


def _least(record: Record) -> dict[str, Any]:
    envelope = record.envelope
    return {"id": record.id, "queue": envelope.queue, "route": shown_route(envelope.route), "state": str(record.state)}


def unshown(error: Exception) -> str:
    """The error in place of a run that cannot be shown: the others in the list still can."""
    return f"<cannot be shown: {type(error).__name__}>"


COLUMNS: Final = (
    "id", "queue", "route", "job", "state", "result", "error", "attempts", "due", "started", "took", "worker",
    "progress", "note",
)  # fmt: skip


def _row(record: Record, now: float) -> dict[str, Any]:
    envelope, ran = record.envelope, times(record)
    return {
        "id": record.id,
        "queue": envelope.queue,
        "route": shown_route(envelope.route),
        "job": job_of(envelope),
        "state": str(record.shown(now)),
        "result": result_of(record),
        "error": record.error,
        "attempts": attempts(record),
        "due": iso(envelope.due),
        "started": None if ran is None else iso(ran[0]),
        "took": None if ran is None else ran[1],
        "worker": record.worker,
        "progress": record.progress,
        "note": record.note,
    }


def full_row(record: Record, now: float) -> dict[str, Any]:
    """Everything there is to show of one run."""
    envelope = record.envelope
    head, call = head_of(envelope), arguments_of(envelope)
    running = record.state == State.RUNNING
    return {
        **row(record, now),
        "ref": head.ref if head else None,
        "retries": head.seal.retries if head else None,
        "unique": unique_of(record),
        "limit": limit_of(envelope),
        "expires": iso(envelope.expires),
        "next": iso(record.ripe) if record.state == State.QUEUED else None,
        "args": None if call is None else call.args,
        "kwargs": None if call is None else call.kwargs,
        "history": [
            {"started": iso(one.started.timestamp()), "took": one.took, "worker": one.worker, "error": one.error}
            for one in history(record)
        ],
        "leased_until": iso(record.ripe) if running else None,
        "ended": iso(record.ended),
        "kept_until": None if record.open else iso(record.ripe),
        "lapses": record.lapses,
        "deaths": deaths(record),
        "traceback": traceback_of(record),
    }


def limit_of(envelope: Envelope) -> dict[str, Any] | None:
    """The limit of a run; a count of 0 is for keys that only take turns. None if it has none."""
    terms = terms_of(envelope) if key_of_route(envelope.route) else None
    if terms is None:
        return None
    return {"count": terms.most, "per": terms.per or None, "burst": terms.burst if terms.is_rate else None}


def limit_text(envelope: Envelope) -> str:
    """The limit of a run, for people: ``5 at once``, ``100 in 1m 00s``; empty if it has none."""
    limit = limit_of(envelope)
    if limit is None:
        return ""
    if limit["per"]:
        return f"{limit['count']:,} in {span(limit['per'])}"
    return f"{limit['count']:,} at once" if limit["count"] else "takes turns"


def unique_of(record: Record) -> str | None:
    """The unique key as people gave it. The stored one begins with the job's name."""
    unique = record.envelope.unique
    return None if unique is None else unique.rpartition("\n")[2]


def deaths(record: Record) -> list[str]:
    """The signals or exit codes of the workers that died while they executed it."""
    return list(decode_notes(record.notes).deaths)


def result_of(record: Record) -> Any:
    """The value of a run that succeeded; Words if it cannot be read, or not without unpickling."""
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


def call_text(envelope: Envelope, call: Arguments | None = None) -> str:
    """The call as one would write it: ``send('bad', html=True)``. Pickled arguments are shown if ``call`` has them."""
    name = re.split(r"[:.]", job_of(envelope) or "?")[-1]
    found = call or arguments_of(envelope)
    if found is None:
        return f"{name}(<arguments that are pickled or cannot be read>)"
    shown = [*map(text, found.args), *(f"{key}={text(value)}" for key, value in found.kwargs.items())]
    return f"{name}({', '.join(shown)})"


def route_text(route: str) -> str:
    """A route as people know it: without the marks for a priority, or for the address of a worker."""
    base, _, priority = shown_route(route).partition("^")
    if base.startswith("@"):
        return f"worker {worker_label(base[1:])}"
    return f"{base} ({priority})" if priority else base


def age_text(due: float, now: float) -> str:
    """How long ago it was due: ``12s``; or when it will be: ``in 5m``. Empty for what waits for other runs."""
    if due == GATED:
        return ""
    return age(now - due) if due <= now else f"in {age(due - now)}"


def took_text(record: Record) -> str:
    """How long its last attempt took."""
    ran = None if record.state == State.RUNNING else times(record)
    return "" if ran is None else span(ran[1])


def outcome(record: Record) -> str:
    """For people: its result, its error, or how far it is."""
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
    except Exception as error:
        return unshown(error)


def iso(time: float | None) -> str | None:
    """A time for programs."""
    moment = _moment(time)
    return None if moment is None else moment.isoformat(timespec="milliseconds")


def local(time: float | None) -> str:
    """A time for people."""
    moment = _moment(time)
    return "" if moment is None else as_local(moment).strftime("%Y-%m-%d %H:%M:%S")


def short(time: float, now: float) -> str:
    """A time for people, in lists: without the date if that is today."""
    told, today = local(time), local(now)
    return told[11:] if told[:10] == today[:10] else told[:16]


def _moment(time: float | None) -> datetime | None:
    try:
        return None if time is None or time >= GATED else datetime.fromtimestamp(time, UTC)
    except (ValueError, OverflowError, OSError):
        return None  # beyond the year 9999: for ever, as what waits for others is due
