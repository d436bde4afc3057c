"""Following ``Class.name`` from a module to what it leads to, without running anything on the way."""

from __future__ import annotations

from typing import Any, Final

NOTHING: Final = object()


def follow(start: Any, qualname: str) -> Any:
    """What ``qualname`` leads to from a module, or NOTHING. No property, descriptor or ``__getattr__`` is asked."""
    from inspect import getattr_static  # late: whoever only fires what is by value does not need it

    found = start
    for part in qualname.split("."):
        found = getattr_static(found, part, NOTHING)
        if found is NOTHING:
            return NOTHING
        if type(found) in (staticmethod, classmethod):
            found = found.__func__
    return found


def is_a(value: Any, kind: type) -> bool:
    """``isinstance`` by the true type: a proxy's ``__class__`` would run code of its own."""
    return issubclass(type(value), kind)
