"""Converts any value to what JSON can hold, so that a document is valid whatever a run holds."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any, Final

from skunkqueue.printable import said

LONGEST_INT: Final = 10_000
"""Most bits of an int that is written in decimal; Python refuses far longer ones."""
DEEPEST: Final = 300
"""Most levels of nested lists and objects; deeper ones become text. Readers of JSON have a limit of their own."""


def jsonable(value: Any, depth: int = 0) -> Any:
    """The value for ``json.dumps``: sets and tuples become lists, what JSON cannot hold becomes text. Never raises."""
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return int(value) if value.bit_length() <= LONGEST_INT else hex(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else float.__repr__(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, dict | list | tuple | set | frozenset) and depth < DEEPEST:
        return _fields(value, depth) if isinstance(value, dict) else _items(value, depth)
    return _text(_word(value))


def _items(values: Any, depth: int) -> list[Any]:
    found = []
    for item in values:  # a comprehension would count twice towards Python's recursion limit
        found.append(jsonable(item, depth + 1))
    return found


def _fields(values: dict[Any, Any], depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, item in values.items():
        name = _text(key if isinstance(key, str) else said(key))
        if name in found:  # 1 and "1"
            name = f"{name} ({type(key).__name__}, {len(found)})"
        found[name] = jsonable(item, depth + 1)
    return found


def _text(text: str) -> str:
    """The text without lone surrogates, which readers of JSON may refuse."""
    return text.encode("utf-8", "backslashreplace").decode()


def _word(value: Any) -> str:
    try:
        return value.isoformat() if isinstance(value, datetime) else str(value)
    except Exception:  # also if it is nested too deep, or contains itself
        return f"<{type(value).__name__}>"
