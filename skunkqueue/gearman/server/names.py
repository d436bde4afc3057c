"""How Gearman's names and the store's correspond: functions and routes, unique keys, handles and ids of runs.

A function is a route of the queue. Bytes that no route's name may have are written as ``=`` and two hexadecimal digits.
A handle is made of the id of its run, so every server on the store knows every handle, after a restart too.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from skunkqueue.errors import WrongCall
from skunkqueue.gearman.protocol import MAX_HANDLE, PacketType
from skunkqueue.ids import check_id
from skunkqueue.routes import HIGH, LOW, base_route

PRIORITY: Final[Mapping[PacketType, str]] = {
    PacketType.SUBMIT_JOB_HIGH: HIGH,
    PacketType.SUBMIT_JOB_HIGH_BG: HIGH,
    PacketType.SUBMIT_JOB_LOW: LOW,
    PacketType.SUBMIT_JOB_LOW_BG: LOW,
}
"""The sub-route of a submission; all others have normal priority."""

_PREFIX: Final = b"H:skunq:"
_PLAIN: Final = re.compile(rb"[A-Za-z0-9_.:-]+")
_OTHER: Final = re.compile(rb"[^A-Za-z0-9_.:-]")
_ESCAPED: Final = re.compile(rb"=([0-9A-F]{2})")
_HEX: Final = "=hex:"


@lru_cache(maxsize=10_000)
def route_of(function: bytes) -> str:
    """The route of a function, without a priority."""
    if _PLAIN.fullmatch(function):
        return function.decode()
    return _OTHER.sub(lambda found: b"=%02X" % found[0][0], function).decode()


@lru_cache(maxsize=10_000)
def function_of(route: str) -> bytes:
    """The function of a route, with any priority."""
    return _ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), base_route(route).encode())


def job_name(function: bytes) -> str:
    """What a worker of the queue looks the job up by."""
    return function.decode("utf-8", "backslashreplace")


def key_of(function: bytes, unique: bytes, data: bytes) -> str | None:
    """The unique key of a submission, as a job of that name has it. ``-`` means the data themselves."""
    if unique == b"-":
        unique = b"-" + hashlib.sha256(data).hexdigest().encode() if data else b""
    return f"{job_name(function)}\n{_text(unique)}" if unique else None


def unique_of(key: str | None) -> bytes:
    """The unique key as the client gave it; empty where there is none."""
    text = "" if key is None else key.partition("\n")[2]
    if text.startswith(_HEX):
        try:
            return bytes.fromhex(text.removeprefix(_HEX))
        except ValueError:
            pass  # somebody else's
    found = text.encode("utf-8", "replace").replace(b"\0", b"")
    return b"-" if len(found) == 65 and found[:1] == b"-" else found


def _text(unique: bytes) -> str:
    try:
        text = unique.decode()
    except UnicodeDecodeError:
        return _HEX + unique.hex()
    return _HEX + unique.hex() if text.startswith(_HEX) else text


def handle_of(id: str) -> bytes:
    """The handle of the run with this id."""
    handle = _PREFIX + id.encode("utf-8", "replace")
    if len(handle) <= MAX_HANDLE and not re.search(rb"[\0\s]", handle):
        return handle
    return _PREFIX + b"~" + hashlib.sha256(handle).hexdigest()[:40].encode()  # nobody's id of ours is that long


def id_of(handle: bytes) -> str | None:
    """The id in a handle; None where it is none of ours."""
    if not handle.startswith(_PREFIX):
        return None
    try:
        return check_id(handle.removeprefix(_PREFIX).decode())
    except (WrongCall, UnicodeDecodeError):
        return None
