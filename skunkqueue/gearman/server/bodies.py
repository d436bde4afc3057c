"""What is in an envelope for Gearman: payloads on the way in, payloads and answers on the way out.

A payload is kept as it came, byte for byte, in a form that a worker of the queue reads as arguments too. The other way,
arguments that a program fired become JSON: an object where they are given by keyword, an array where by position; one
argument of bytes is the payload itself.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, Final

from skunkqueue.codec import FOREIGN, decode_call, decode_value, is_pickled, untimed
from skunkqueue.envelope import DAY, Seal, open_body, pack_body, pack_head
from skunkqueue.errors import PayloadError, SkunkError

_REDUCE: Final = b"reduce\0"
KEEP_FAILED: Final = 7 * DAY


@lru_cache(maxsize=10_000)
def head(name: str, keep_failed: float) -> bytes:
    """The head of the bodies of a function's jobs."""
    return pack_head(name, "", Seal(keep_failed=keep_failed))


def body_of(head: bytes, data: bytes, reducer: bytes = b"") -> bytes:
    """The body of a job's envelope. A job with a reducer is for Gearman's workers alone."""
    return pack_body(head, _REDUCE + reducer if reducer else b"", FOREIGN + data)


def payload_of(body: bytes) -> tuple[bytes, bytes]:
    """The payload for a Gearman worker, and the reducer. Raises PayloadError for arguments that it cannot be given."""
    found = open_body(body)
    reducer = found.code.removeprefix(_REDUCE) if found.code.startswith(_REDUCE) else b""
    if found.call[:1] == FOREIGN:
        return found.call[1:], reducer
    if is_pickled(found.call):
        raise PayloadError('its arguments are pickled; a Gearman worker can have what serializer="plain" takes')
    args, kwargs = decode_call(found.call)
    if args and kwargs:
        raise PayloadError("a Gearman worker can have arguments by keyword or by position, not both in one call")
    if len(args) == 1 and type(args[0]) is bytes:
        return args[0], reducer
    return _json(list(args) if args else kwargs, "its arguments"), reducer


def answer_of(value: bytes | None) -> bytes:
    """What a client gets of a run's value. Raises PayloadError for one that it cannot have."""
    if value is None:
        return b""
    value = untimed(value)
    if value[:1] == FOREIGN:
        return value[1:]
    if is_pickled(value):
        raise PayloadError("its result is pickled: a Gearman client can have JSON, or bytes")
    found = decode_value(value)
    return found if type(found) is bytes else _json(found, "its result")


def _json(value: Any, what: str) -> bytes:
    try:
        return json.dumps(value).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise PayloadError(f"{what} cannot be written as JSON for Gearman: {error}") from error


def error_text(error: SkunkError) -> str:
    """One line of an error, for a run that failed by it."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]
