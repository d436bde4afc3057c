"""How a source gives jobs to its worker processes, and memory that they share with their pool."""

from __future__ import annotations

import base64
import contextlib
import importlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from skunkqueue.errors import WrongCall
from skunkqueue.job import Carried

MOST_DATA: Final = 64 << 10


@dataclass(frozen=True)
class Hook:
    """Makes, in each worker process, the jobs that it knows by name, beside those that it can import.

    ``function`` is ``module:function``. A worker process imports it when it starts and calls it with ``data`` and
    ``fds``; it gives the jobs by name. ``fds`` are descriptors that worker processes inherit, by the same numbers.
    An error in it ends the pool with a message, as a failing import does. Raises WrongCall for more data than 64 KiB:
    it travels in the environment, so more belongs behind a descriptor (``shared_bytes``).
    """

    function: str
    data: bytes = b""
    fds: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.data) > MOST_DATA:
            raise WrongCall(f"a hook's data is at most {MOST_DATA:,} bytes, got {len(self.data):,}; share a descriptor")

    def packed(self) -> tuple[str, str, tuple[int, ...]]:
        """The hook as values that JSON can hold."""
        return self.function, base64.b64encode(self.data).decode(), self.fds

    @classmethod
    def unpack(cls, packed: Sequence[Any]) -> Hook:
        function, data, fds = packed
        return cls(function, base64.b64decode(data), tuple(fds))

    def jobs(self) -> Mapping[str, Carried]:
        """Call it, in the worker process."""
        module, _, name = self.function.partition(":")
        jobs: Mapping[str, Carried] = getattr(importlib.import_module(module), name)(self.data, self.fds)
        return jobs


class ShownResult(NamedTuple):
    """What a source's own function may return: the result, and what the log shows of it in place of its ``repr``."""

    value: Any
    text: str


def shared_bytes(size: int) -> int:
    """A descriptor of shared memory. A file is written in full: touching a mapped hole kills on a full disk."""
    with contextlib.suppress(AttributeError, OSError):
        fd = os.memfd_create("skunkqueue")
        os.truncate(fd, size)
        return fd
    with tempfile.TemporaryFile(buffering=0) as file:
        file.write(bytes(size))
        return os.dup(file.fileno())
