"""What a record tells of its run: the call, who ran it, when, for how long, and how the attempts before went."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from skunkqueue.codec import decode_call, headers_of, is_pickled, times_of
from skunkqueue.envelope import Envelope, Head, Record, State, open_body, peek_head
from skunkqueue.errors import PayloadError
from skunkqueue.notes import decode_notes
from skunkqueue.signing import verify_body
from skunkqueue.times import as_datetime, as_local


class Attempt(NamedTuple):
    """One attempt of a run that ended: when it started (local time), how many seconds it took, the worker's name.

    ``error`` is why it failed, in one line; None for the one that succeeded.
    """

    started: datetime
    took: float
    worker: str
    error: str | None


class Arguments(NamedTuple):
    """The arguments of a call."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def head_of(envelope: Envelope) -> Head | None:
    """What its sender decided; None if it cannot be read."""
    try:
        return peek_head(envelope.body)
    except PayloadError:
        return None


def job_of(envelope: Envelope) -> str | None:
    """The job's name; None if the envelope cannot be read."""
    head = head_of(envelope)
    return (head.name or head.ref) if head else None


def arguments_of(envelope: Envelope) -> Arguments | None:
    """The arguments where they are plain; None where they would have to be unpickled, or cannot be read."""
    try:
        call = open_body(envelope.body).call
        if is_pickled(call):
            return None
        args, kwargs = decode_call(call)
    except PayloadError:
        return None
    return Arguments(tuple(args), kwargs)


def headers(envelope: Envelope) -> dict[str, str]:
    """The headers that travel with a run; none where they cannot be read."""
    try:
        return headers_of(open_body(envelope.body).call)
    except PayloadError:
        return {}


def opened_arguments(envelope: Envelope) -> Arguments:
    """The arguments, unpickled where need be. Raises BadSignature before anything that nobody trusted has signed."""
    body = open_body(envelope.body)
    verify_body(body, id=envelope.id, queue=envelope.queue)
    args, kwargs = decode_call(body.call)
    return Arguments(tuple(args), kwargs)


def times(record: Record) -> tuple[float, float] | None:
    """When its last attempt that ended started (store time), and how many seconds it took; None if it is not known."""
    if record.state == State.SUCCEEDED:
        return None if record.value is None else times_of(record.value)
    history = decode_notes(record.notes).history
    return (history[-1].started, history[-1].took) if history else None


def history(record: Record) -> list[Attempt]:
    """The attempts that ended and are still remembered, oldest first."""
    found = [
        Attempt(as_local(as_datetime(one.started)), one.took, worker_label(one.worker), one.error)
        for one in decode_notes(record.notes).history
    ]
    last = times(record) if record.state == State.SUCCEEDED else None
    if last is not None:
        found.append(Attempt(as_local(as_datetime(last[0])), last[1], worker_label(record.worker or ""), None))
    return found


def worker_label(name: str) -> str:
    """A worker as logs and lists call it, ``foo.1`` for short: the name in a store begins with that of its pool."""
    return name.partition(".")[2] or name


def running_since(record: Record, workers: Mapping[str, str]) -> float | None:
    """Store time since which it runs, as its worker last said; None if it has not said so yet."""
    import json  # late: not needed to fire

    try:
        about = json.loads(workers[record.worker or ""])
        return about["doing"][about["running"].index(record.id)][1] or None
    except (KeyError, ValueError, TypeError, IndexError):
        return None
