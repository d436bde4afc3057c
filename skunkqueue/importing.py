"""Known while a worker imports a module: what is fired at its top level must not be fired again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Importing(threading.local):
    depth = 0


_importing = _Importing()


@contextmanager
def while_importing() -> Iterator[None]:
    """Within this, on this thread, fires give inert runs: importing a script's module must not fire again."""
    _importing.depth += 1
    try:
        yield
    finally:
        _importing.depth -= 1


def is_importing() -> bool:
    """Whether this thread is within ``while_importing``."""
    return _importing.depth > 0
