"""Finds the object that ``Class.name`` names in a module, without running any code."""

from __future__ import annotations

from typing import Any, Final

NOTHING: Final = object()


def follow(start: Any, qualname: str) -> Any:
    """The object that ``qualname`` names, or NOTHING. No property, descriptor or ``__getattr__`` is called."""
    from inspect import getattr_static  # late: firing jobs that travel by value does not need it

    found = start
    for part in qualname.split("."):
        found = getattr_static(found, part, NOTHING)
        if found is NOTHING:
            return NOTHING
        if type(found) in (staticmethod, classmethod):
            found = found.__func__
    return found


def is_a(value: Any, kind: type) -> bool:
    """``isinstance`` by the real type: asking a proxy for its ``__class__`` would run its code."""
    return issubclass(type(value), kind)
