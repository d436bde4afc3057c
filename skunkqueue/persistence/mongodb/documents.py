"""Converts values of the contract to documents of MongoDB and back; and what of a run a person reads in a shell.

A run is one document::

    _id, queue, route, due, expires, unique, keep, body   the envelope, as its sender sealed it
    rest        what its body has beyond BRIEF bytes, so that a look can leave it out
    state, ripe, lapses, notes, worker                    as in a record
    value, error, progress, note, ended
    long        in place of value, one of more than BRIEF bytes
    shelf       "queue/route^n" while the run is open, "~state/queue/route^n" once ended: the head of the index RIPE
    held        the token while the run is running
    token       the token of the last claim afterwards, so that a repeated commit is recognized
    claimed     how often the run was claimed or reopened: a claim takes what it has read, or nothing
    key         what its unique key holds, while the run is open
    expiring    when it expires, while the run is open
    by          names the call that last cancelled, reopened or promoted it, so that it knows which it took
    job, args, kwargs, result, due_at, ripe_at, ended_at  for people; never read here
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple, TypeVar

from bson import Binary, Decimal128

from skunkqueue.codec import decode_call, decode_value, is_pickled
from skunkqueue.envelope import DAY, Claim, Envelope, Record, State, open_body, peek_head
from skunkqueue.errors import SkunkError
from skunkqueue.persistence import BRIEF, REMEMBERED
from skunkqueue.routes import HIGH, LOW

Document = dict[str, Any]

SHOWN: Final = ("job", "args", "kwargs", "result", "due_at", "ripe_at", "ended_at")
UNSHOWN: Final = dict.fromkeys(SHOWN, 0)
"""The projection that leaves out what only people read."""

WITHOUT_BODIES: Final = UNSHOWN | {"rest": 0}
"""That of a brief record, with its value."""

WITHOUT_VALUES: Final = WITHOUT_BODIES | {"long": 0}
"""That of a brief record, with its value where that is short."""

PLACES: Final = dict.fromkeys((*SHOWN, "body", "rest", "value", "long", "notes"), 0)
"""What is needed of a run to end it or to put it elsewhere."""

MOST_SHOWN: Final = 4096
"""Arguments or a result of more bytes are not shown."""

DEEPEST: Final = 20
"""Levels of nesting that are shown; MongoDB takes 100."""

LONGEST_KEY: Final = 400
"""A unique key of more bytes is held by its digest: an index takes no long entries."""

N = TypeVar("N", float, None)


def in_one(count: int) -> int:
    """The ``batch_size`` for so many documents: a server that is not told gives 101, and the others by another trip."""
    return count + 1


def document_of(envelope: Envelope) -> Document:
    """The document of a new run."""
    id, queue, route, due, body, expires, unique, keep = envelope
    document: Document = {
        "_id": id, "queue": queue, "route": route, "state": "queued", "shelf": shelf_of(queue, route),
        "ripe": float(due), "claimed": 0, "due": float(due), "keep": float(keep),
    }  # fmt: skip
    if expires is not None:
        document["expires"] = document["expiring"] = float(expires)
    if unique is not None:
        document["unique"] = storable(unique)
        document["key"] = key_of(envelope)
    document |= shown_call(body)
    document["due_at"] = document["ripe_at"] = date_of(due)
    document["body"] = body if len(body) <= BRIEF else body[:BRIEF]
    if len(body) > BRIEF:
        document["rest"] = body[BRIEF:]
    return document


def field_of(value: bytes | None) -> str:
    """The field that holds this value."""
    return "value" if value is None or len(value) <= BRIEF else "long"


def shelf_of(queue: str, route: str) -> str:
    """Where the open runs of a route lie, such that those of a higher priority come first. No name has a slash."""
    base, mark, priority = route.partition("^")
    return f"{queue}/{base}^{_RANKS.get(mark + priority, priority)}"


_RANKS: Final = {HIGH: "1", "": "2", LOW: "3"}
_MARKS: Final = {rank: mark for mark, rank in _RANKS.items()}

OF_ENDED: Final = "~"
"""What the shelves of ended runs begin with, and no queue does."""


def shelf_of_ended(state: str, queue: str, route: str) -> str:
    """Where the ended runs of a route lie."""
    return f"{OF_ENDED}{state}/{shelf_of(queue, route)}"


def beginning(text: str) -> Document:
    """The condition that a field begins with this."""
    return {"$gte": text, "$lt": text[:-1] + chr(ord(text[-1]) + 1)}


class Place(NamedTuple):
    """What a shelf says of its runs. Without a state they are open."""

    queue: str
    route: str
    state: State | None


def place_of(shelf: object) -> Place:
    """What ``shelf_of`` or ``shelf_of_ended`` was given."""
    text, state = readable(shelf), None
    if text.startswith(OF_ENDED):
        ended, _, text = text[len(OF_ENDED) :].partition("/")
        state = state_of(ended)
    queue, slash, route = text.partition("/")
    base, _, rank = route.rpartition("^")
    if not slash or not base:
        return Place(LOST, LOST, state)
    return Place(queue, base + _MARKS.get(rank, "^" + rank), state)


LOST: Final = "?"
"""The queue and the route of a run of which nothing says them."""


def key_of(envelope: Envelope) -> str | bytes | None:
    """What the unique key of a run holds while the run is open: no two runs hold the same."""
    if envelope.unique is None:
        return None
    written = (envelope.unique).encode("utf-8", "surrogatepass")
    if len(written) > LONGEST_KEY:
        digest = hashlib.sha256(written).hexdigest()
        return f"{envelope.queue}/{envelope.route}//{digest}"
    return storable(f"{envelope.queue}/{envelope.route}/{envelope.unique}")


def kept_until(envelope: Envelope, now: float, keep: float | None = None) -> float:
    """Until when a run that ends now is kept."""
    return now + max(envelope.keep if keep is None else keep, REMEMBERED)


def record_of(document: Mapping[str, Any]) -> Record:
    """The record; a field that cannot be what it should be affects its own run only."""
    get = document.get
    value, notes = get("long", get("value")), get("notes")
    return Record(
        envelope_of(document), state_of(get("state")), number_of(get("ripe"), 0.0), token_of(document),
        text_of(get("worker")), count_of(get("lapses")), b"" if notes is None else bytes_of(notes),
        None if value is None else bytes_of(value), text_of(get("error")), number_of(get("progress"), None),
        text_of(get("note")), number_of(get("ended"), None),
    )  # fmt: skip


def token_of(document: Mapping[str, Any]) -> str | None:
    """The token that a run bears: it is held under it, or was last."""
    return text_of(document.get("held", document.get("token")))


def envelope_of(document: Mapping[str, Any]) -> Envelope:
    get = document.get
    body = bytes_of(get("body", b""))
    if "rest" in document:
        body += bytes_of(document["rest"])
    return Envelope(
        readable(get("_id")), readable(get("queue", LOST)), readable(get("route", LOST)), number_of(get("due"), 0.0),
        body, number_of(get("expires"), None), text_of(get("unique")), number_of(get("keep"), DAY),
    )  # fmt: skip


def claim_of(document: Mapping[str, Any]) -> Claim:
    """The claim that a running run's document shows."""
    record = record_of(document)
    return Claim(record.envelope, record.token or "", record.worker or "", record.ripe, record.lapses, record.notes)


# Anybody may write to a collection. A damaged field must affect its own run only.


def number_of(stored: object, otherwise: N) -> float | N:
    return float(stored) if isinstance(stored, float | int) else otherwise


def count_of(stored: object) -> int:
    return stored if isinstance(stored, int) else 0


def bytes_of(stored: object) -> bytes:
    return bytes(stored) if isinstance(stored, bytes) else str(stored).encode("utf-8", "replace")


def text_of(stored: object) -> str | None:
    return None if stored is None else readable(stored)


def state_of(stored: object) -> State:
    try:
        state = State(str(stored))
    except ValueError:
        return State.QUEUED
    return State.QUEUED if state is State.SCHEDULED else state


def storable(text: str) -> str | bytes:
    """Text as MongoDB can hold it: as bytes where it is not valid Unicode (a lone surrogate, from a file's name)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
    return text


def readable(stored: object) -> str:
    if isinstance(stored, str):
        return stored
    if not isinstance(stored, bytes):
        return str(stored)
    try:
        return stored.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return stored.decode("utf-8", "replace")


# -- for people ------------------------------------------------------------------------------------------------------


def date_of(seconds: float) -> datetime | None:
    """A time as MongoDB shows it; None for one that no calendar has."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def shown_call(body: bytes) -> Document:
    """The name of the job, and its arguments where they are plain and short. Nothing is unpickled."""
    try:
        document: Document = {"job": printable(peek_head(body).name)}
        call = open_body(body).call
        if len(call) <= MOST_SHOWN and not is_pickled(call):
            args, kwargs = decode_call(call)
            document["args"] = shown(list(args))
            if kwargs:
                document["kwargs"] = shown(kwargs)
    except (SkunkError, ValueError, RecursionError):
        return {}
    return document


def shown_result(value: bytes | None) -> Any:
    """The result of a run where it is plain and short, else None."""
    if value is None or len(value) > MOST_SHOWN or is_pickled(value):
        return None
    try:
        return shown(decode_value(value))
    except (SkunkError, ValueError, RecursionError):
        return None


def shown(value: Any, depth: int = 0) -> Any:
    """A plain value as the nearest that BSON has."""
    if depth > DEEPEST:
        return "..."
    show = _SHOW.get(type(value))
    return value if show is None else show(value, depth + 1)


def printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _list(values: Iterable[Any], depth: int) -> list[Any]:
    return [shown(value, depth) for value in values]


def _dict(value: Mapping[Any, Any], depth: int) -> Document:
    return {printable(str(key)).replace("\x00", "\\0"): shown(each, depth) for key, each in value.items()}


def _int(value: int, depth: int) -> int | str:
    return value if -(1 << 63) <= value < 1 << 63 else str(value)


def _decimal(value: Decimal, depth: int) -> Any:
    try:
        return Decimal128(value)
    except (ValueError, ArithmeticError):
        return str(value)


_SHOW: Mapping[type, Callable[[Any, int], Any]] = {
    list: _list,
    tuple: _list,
    set: _list,
    frozenset: _list,
    dict: _dict,
    int: _int,
    str: lambda text, _: printable(text),
    Decimal: _decimal,
    uuid.UUID: lambda value, _: Binary.from_uuid(value),
    date: lambda value, _: value.isoformat(),
    datetime: lambda value, _: value if value.year > 1 else value.isoformat(),
    timedelta: lambda value, _: str(value),
}
