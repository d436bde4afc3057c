"""err/: failed files, each with a report beside it, and how they are put back."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import traceback
from collections.abc import Iterator
from datetime import datetime
from itertools import count
from typing import Final, NamedTuple

from skunkqueue.errors import SkunkError, WrongCall
from skunkqueue.printable import printable, printable_lines
from skunkqueue.spool.files import ERR, IN

REPORT: Final = ".error"
LONGEST: Final = 255
"""Most bytes of a file name."""


class Report(NamedTuple):
    """The report beside a file in err/."""

    name: str
    why: str
    type: str = ""
    id: str = ""
    attempts: int = 0
    traceback: str = ""

    @classmethod
    def of(cls, error: Exception, name: str, type: str, id: str, attempts: int) -> Report:
        """The report of an error. Our own errors need no traceback: their message says all."""
        if isinstance(error, SkunkError):
            return cls(name, str(error), type, id, attempts)
        why = f"{error.__class__.__name__}: {error}"
        return cls(name, why, type, id, attempts, "".join(traceback.format_exception(error)))

    def text(self) -> str:
        """As it is written: whatever a stranger has put into it, a line stays one, and a terminal obeys nothing."""
        when = datetime.now().astimezone().isoformat(" ", "seconds")
        lines = [f"file: {json.dumps(self.name)}", f"when: {when}", f"why: {printable(self.why)}"]
        lines += [f"type: {json.dumps(self.type)}"] if self.type else []
        lines += [f"run: {self.id}"] if self.id else []
        lines += [f"attempts: {self.attempts}"]
        lines += ["", *printable_lines(self.traceback.rstrip())] if self.traceback else []
        return "\n".join(lines) + "\n"


def keep_in_err(source: str, err: str, report: Report) -> str | None:
    """Move a file to err/ with a report beside it, overwriting nothing; returns its name there.

    Returns None if it is no longer at ``source``.
    """
    for name in numbered(report.name):
        kept, told = os.path.join(err, name), os.path.join(err, report_of(name))
        if not _reserve(told):
            continue
        if _reserve(kept):
            break
        os.unlink(told)
    with contextlib.suppress(OSError), open(told, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(report.text())  # on a full disk the report stays empty
    try:
        os.rename(source, kept)
    except BaseException as error:
        os.unlink(kept)
        os.unlink(told)
        if isinstance(error, FileNotFoundError):
            return None
        raise
    return name


def numbered(name: str) -> Iterator[str]:
    """The name, then ``name.1`` and so on: names to try until one is free."""
    yield name
    for number in count(1):
        # After 9 the end is random, so that the thousandth file of a name does not try a thousand names.
        end = str(number) if number < 10 else os.urandom(6).hex()
        yield f"{cut(name, LONGEST - 1 - len(end))}.{end}"


def report_of(name: str) -> str:
    """The name of the report beside a file of that name."""
    return cut(name, LONGEST - len(REPORT)) + REPORT


def _reserve(path: str) -> bool:
    """Create an empty file to reserve a name; a rename then overwrites only that."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
    except FileExistsError:
        return False
    return True


def retry(file: str | os.PathLike[str]) -> str:
    """Put a file of err/ back into in/, under the name it came with; gives where it is now.

    ``file`` may be the report beside it. Raises WrongCall where there is no such file, or where another of its name
    waits in in/.
    """
    path = os.path.abspath(os.fspath(file))
    if path.endswith(REPORT) and not os.path.lexists(_beside(path)):
        path = path.removesuffix(REPORT)
    if not os.path.lexists(path):
        raise WrongCall(f"there is no {path}; skunq spool retry takes a file of err/")
    err, name = os.path.split(path)
    if os.path.basename(err) != ERR:
        raise WrongCall(f"{path} is not in the err/ of a spool folder")
    told = _beside(path)
    target = os.path.join(os.path.dirname(err), IN, _came_as(told) or name)
    if not move(path, target):
        raise WrongCall(f"{target} is waiting already; once it is done, try again")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(told)
    return target


def _beside(path: str) -> str:
    """The path of the report of a kept file."""
    folder, name = os.path.split(path)
    return os.path.join(folder, report_of(name))


def _came_as(report: str) -> str | None:
    """The name a file came with, as its report says."""
    try:
        with open(report, encoding="utf-8", errors="replace") as file:
            name = json.loads(file.readline().removeprefix("file: "))
    except (OSError, ValueError):
        return None
    return name if isinstance(name, str) and name and "/" not in name and name not in (".", "..") else None


def move(source: str, target: str) -> bool:
    """Rename, unless the target exists. Raises OSError; FileNotFoundError if the source is gone."""
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _move_without_links(source, target)
    os.unlink(source)
    return True


def _move_without_links(source: str, target: str) -> bool:
    """For file systems without hard links, and files of other users."""
    if not _reserve(target):
        return False
    try:
        os.rename(source, target)
    except BaseException:
        os.unlink(target)
        raise
    return True


_NO_LINKS: Final = frozenset({errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


def size_of(name: str) -> int:
    """Bytes of a name on disk."""
    return len(name) if name.isascii() else len(os.fsencode(name))


def cut(name: str, most: int) -> str:
    """The beginning of a name, at most ``most`` bytes, cut between characters."""
    if size_of(name) <= most:
        return name
    kept = name[:most]
    while size_of(kept) > most:
        kept = kept[:-1]
    return kept
