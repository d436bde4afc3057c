"""References to functions, for a store of this process: a run refers to the function itself instead of its pickle."""

from __future__ import annotations

import os
from typing import Any, Final
from weakref import WeakValueDictionary

from skunkqueue.envelope import Envelope, open_body
from skunkqueue.pickling import pickle_function
from skunkqueue.signing import seal_body

MARK: Final = b"&"
"""The first byte of a reference; no pickle begins with it."""

_known: WeakValueDictionary[bytes, Any] = WeakValueDictionary()


class Reference(bytes):
    """A reference in place of pickled code: a number that nobody can guess, and the object itself."""

    target: Any


class _Body(bytes):
    """The body of a run. It keeps the function alive as long as the store keeps the run, and pickles without it."""

    target: Any

    def __reduce__(self) -> Any:
        return bytes, (bytes(self),)


def refer(target: Any) -> Reference:
    """Make a reference to an object, to be used in place of its pickle."""
    reference = Reference(MARK + os.urandom(16))
    reference.target = _known[bytes(reference)] = target
    return reference


def keeping(body: bytes, code: bytes) -> bytes:
    """The body. If its code is a reference, the body keeps the object alive."""
    if type(code) is not Reference:
        return body
    kept = _Body(body)
    kept.target = code.target
    return kept


def referred(code: bytes) -> Any | None:
    """The object of a reference; None if it no longer exists, or was in another process."""
    return _known.get(bytes(code))


def by_value(envelope: Envelope) -> Envelope:
    """The envelope with its function pickled instead of referred to, for a worker in another process.

    Raises PayloadError where the function cannot be pickled.
    """
    if type(envelope.body) is not _Body:
        return envelope
    body = open_body(envelope.body)
    code = pickle_function(envelope.body.target)
    return envelope._replace(body=seal_body(body.head, code, body.call, id=envelope.id, queue=envelope.queue))


def reference(code: bytes) -> bytes:
    """Code as it was read from a body; where it is a reference, one that keeps its object alive again."""
    target = referred(code) if code.startswith(MARK) else None
    if target is None:
        return code
    found = Reference(code)
    found.target = target
    return found
