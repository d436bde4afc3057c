"""The file that holds the process ID of ``skunq work``, for as long as it works."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from skunkqueue.errors import SkunkError


@contextlib.contextmanager
def holding(path: str | None) -> Iterator[None]:
    """Hold this process's ID in a file. Raises SkunkError where a living process has it, or it cannot be made."""
    if path is None:
        yield
        return
    try:
        _take(path)
    except OSError as error:
        raise SkunkError(f"the pid file {path} cannot be made ({error.strerror})") from error
    try:
        yield
    finally:
        if holder(path) == os.getpid():
            os.unlink(path)


def _take(path: str) -> None:
    """Make it whole or not at all; of two processes at once, one wins."""
    draft = f"{path}.{os.getpid()}"
    with open(draft, "w", encoding="ascii") as file:
        file.write(f"{os.getpid()}\n")
    try:
        try:
            os.link(draft, path)
        except FileExistsError:
            _take_over(draft, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)


def _take_over(draft: str, path: str) -> None:
    """Only from the dead. A file with our own ID was left behind: in a container every start may have the same."""
    pid = holder(path)
    if pid is None and os.path.getsize(path):
        raise SkunkError(f"{path} is not a pid file: name another one, or delete it")
    if pid is not None and pid != os.getpid() and is_alive(pid):
        raise SkunkError(f"process {pid} has the pid file {path}: stop it first, or name another file")
    os.replace(draft, path)


def holder(path: str) -> int | None:
    """The process ID in the file; None where there is none."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return int(file.read(100))
    except (FileNotFoundError, ValueError):
        return None


def is_alive(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return pid > 0
