"""Importing: whether a worker can import a module by its name, and what firing does during the import."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final


class _Importing(threading.local):
    depth = 0


_importing = _Importing()


@contextmanager
def while_importing() -> Iterator[None]:
    """In this context, firing on this thread returns inert runs: importing a job's module must not fire again."""
    _importing.depth += 1
    try:
        yield
    finally:
        _importing.depth -= 1


def is_importing() -> bool:
    """Whether this thread is within ``while_importing``."""
    return _importing.depth > 0


BY_VALUE: Final = ("__main__", "__mp_main__")
"""Names of modules that mean a different module in every process."""

_by_path: dict[str, bool] = {}


def travels_by_value(name: str) -> bool:
    """Whether a worker cannot import this module by its name.

    This is so for the script that runs, and for a module that was loaded from a path (by runpy, by a plug-in loader).
    """
    if name in BY_VALUE:
        return True
    module = sys.modules.get(name)
    if module is None:
        return False  # not loaded: no job can be found in it here either
    spec = getattr(module, "__spec__", None)
    origin = getattr(spec, "origin", None)
    if spec is None or _is_below_path(name, origin):
        return spec is None
    key = f"{name}\n{origin}"
    if key not in _by_path:
        found = _find(name)
        _by_path[key] = found is None or found.origin != origin
    return _by_path[key]


def _is_below_path(name: str, origin: object) -> bool:
    """Whether the file is where the name says, below a folder of sys.path. Quick, and true of nearly all modules."""
    if not isinstance(origin, str):
        return False
    tail = os.sep + name.replace(".", os.sep)
    for end in (".py", os.sep + "__init__.py"):
        if origin.endswith(tail + end):
            folder = origin[: -len(tail + end)]
            return folder in sys.path or ("" in sys.path and folder == os.getcwd())
    return False


def _find(name: str) -> Any:
    """The spec by which this name would be imported now, or None."""
    parent = name.rpartition(".")[0]
    path = getattr(sys.modules.get(parent), "__path__", None) if parent else None
    for finder in sys.meta_path:
        with suppress(Exception):  # a custom finder may raise anything
            found = finder.find_spec(name, path, None)
            if found is not None:
                return found
    return None
