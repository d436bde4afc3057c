"""Finds the part of a function or a call that cannot be pickled, or that is the largest: pickle's errors do not say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from types import CodeType, FunctionType, MethodType
from typing import Any, Final

from skunkqueue.printable import said

Part = tuple[str, Any]
"""The name of a part in errors, and the part itself."""

DEEPEST: Final = 6
MOST: Final = 1000
"""Most parts of one value that are examined."""


def of_call(args: Iterable[Any], kwargs: Mapping[str, Any]) -> Iterator[Part]:
    """The arguments of a call."""
    for position, value in enumerate(args, 1):
        yield f"argument {position}", value
    for name, value in kwargs.items():
        yield f"argument {name!r}", value


def of_function(function: Any) -> Iterator[Part]:
    """What a function needs besides its code: globals, variables of outer functions, defaults, a method's object."""
    if isinstance(function, MethodType):
        yield "the object of the method", function.__self__
        yield from of_function(function.__func__)
    elif isinstance(function, partial):
        yield from of_function(function.func)
        yield from of_call(function.args, function.keywords)
    elif isinstance(function, FunctionType):
        for name in _names(function.__code__):
            if name in function.__globals__:
                yield f"the global {name!r}", function.__globals__[name]
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            yield from ((f"the variable {name!r} around it", content) for content in _content(cell))
        for value in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            yield "a default value", value
    else:
        yield from of_value(function)


def of_value(value: Any) -> Iterator[Part]:
    """What a value holds, named by index, key or attribute."""
    if isinstance(value, dict):
        yield from ((f"[{said(key)}]", item) for key, item in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"[{place}]", item) for place, item in enumerate(value))
    elif isinstance(value, FunctionType | MethodType | partial):
        yield from of_function(value)
    elif hasattr(type(value), "reduced_by_value"):  # a job
        yield from of_function(value.function)
    elif not isinstance(value, type):
        yield from ((f".{name}", item) for name, item in getattr(value, "__dict__", {}).items())


def _names(code: CodeType) -> Iterator[str]:
    yield from dict.fromkeys(code.co_names)
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _names(const)


def _content(cell: Any) -> list[Any]:
    try:
        return [cell.cell_contents]
    except ValueError:  # the cell is still empty
        return []


def failing(parts: Iterable[Part], can: Callable[[Any], bool], seen: frozenset[int] = frozenset()) -> str:
    """The first part that cannot be pickled, and what within it is to blame; empty if all can be pickled."""
    for name, value in islice(parts, MOST):
        if id(value) in seen or can(value):
            continue
        within = failing(of_value(value), can, seen | {id(value)}) if len(seen) < DEEPEST else ""
        if not within:
            return f"{name}, a {type(value).__name__}"
        return f"{name}{within}" if within[0] in "[." else f"{name}, which needs {within}"
    return ""


def largest(parts: Iterable[Part], size: Callable[[Any], int]) -> str:
    """The largest of these, with its size; empty if there are none."""
    sizes = [(size(value), name) for name, value in islice(parts, MOST)]
    if not sizes:
        return ""
    most, name = max(sizes, key=lambda each: each[0])
    return f"{name} ({most:,} bytes)"
