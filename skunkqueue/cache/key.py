"""What an answer is found by: a function's name and its arguments, whatever their order."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple
from uuid import UUID

from skunkqueue.errors import WrongCall

_SCALARS: Final = (type(None), bool, int, float, str, bytes, datetime, date, time, timedelta, Decimal, UUID)

DEEPEST: Final = 100


class CachedCall(NamedTuple):
    """A call: ``key`` is made of the rest, which is for people who look into the store."""

    key: str
    name: str
    arguments: str


def question_of(name: str, arguments: Mapping[str, Any]) -> CachedCall:
    """The key of a call. A list and a tuple are the same, 1, 1.0 and True are not.

    Raises WrongCall for an argument that is not made of plain values.
    """
    parts = {}
    for argument, value in arguments.items():
        try:
            parts[argument] = _canonical(value, 0)
        except _Unfit as unfit:
            raise WrongCall(
                f"the argument {argument!r} of {name} cannot be told from others: it holds {unfit}"
            ) from None
    text = ", ".join(f"{argument}={parts[argument]}" for argument in sorted(parts))
    digest = hashlib.sha256(f"{name}({text})".encode("utf-8", "surrogatepass")).hexdigest()
    return CachedCall(digest, name, text[:1000].encode("utf-8", "replace").decode())


class _Unfit(Exception):
    """Holds what cannot be part of a key."""


def _canonical(value: Any, depth: int) -> str:
    """A text that equal values share, and only they."""
    if depth > DEEPEST:
        raise _Unfit("values nested too deeply")
    if type(value) in _SCALARS:
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join([_canonical(item, depth + 1) for item in value]) + "]"
    if isinstance(value, dict):
        pairs = [f"{_canonical(key, depth + 1)}: {_canonical(item, depth + 1)}" for key, item in value.items()]
        return "{" + ", ".join(sorted(pairs)) + "}"
    if isinstance(value, set | frozenset):
        return "{" + ", ".join(sorted(_canonical(item, depth + 1) for item in value)) + "}"
    raise _Unfit(f"a {type(value).__name__}")
