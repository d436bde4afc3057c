"""Signing the body of a run: what has to be unpickled is good for this run alone, and for no copy of it."""

from __future__ import annotations

from typing import Final

from skunkqueue.codec import is_pickled
from skunkqueue.envelope import Body, pack_body
from skunkqueue.keys import CALL, Keyring, default_keys

_NO_CODE: Final = bytes(32)


def seal_body(head: bytes, code: bytes, call: bytes, *, id: str, queue: str, keys: Keyring = default_keys) -> bytes:
    """The body of the run with this id on this queue, signed where something in it has to be unpickled."""
    if not code and not is_pickled(call):
        return pack_body(head, code, call)
    return pack_body(head, code, call, keys().sign(CALL, _signed_part(head, code, call, id, queue)))


def verify_body(body: Body, *, id: str, queue: str, keys: Keyring = default_keys) -> None:
    """Raises BadSignature where something has to be unpickled that nobody trusted has signed for this very run."""
    if body.code or body.signature or is_pickled(body.call):
        signed = _signed_part(body.head, body.code, body.call, id, queue)
        keys().verify(CALL, signed, body.signature)


def _signed_part(head: bytes, code: bytes, call: bytes, id: str, queue: str) -> bytes:
    """The bytes that a signature covers. The code is in it by its digest, by which a worker knows it again."""
    parts = (id.encode(), queue.encode(), head, _digest(code) if code else _NO_CODE)
    return b"".join((*(len(part).to_bytes(4, "little") for part in parts), *parts, call))


def _digest(code: bytes) -> bytes:
    from hashlib import sha256  # late: it loads OpenSSL

    return sha256(code).digest()
