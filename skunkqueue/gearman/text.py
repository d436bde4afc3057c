"""The admin protocol's words: commands as typed values, and the rows of its tables, written and read alike.

A command is one line. An answer is one line (``OK``, ``OK 1.1.20``, ``ERR CODE reason+with+pluses``), or a table: lines
of tab-separated columns and a last line ``.``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, Protocol
from urllib.parse import quote_plus, unquote_plus

from skunkqueue.errors import WrongCall
from skunkqueue.gearman.errors import MalformedPacket, ServerRefused
from skunkqueue.gearman.protocol import Line

END: Final = Line(".")
"""What ends a table."""

TABLES: Final = ("status", "workers", "prioritystatus", "show jobs", "show unique jobs")
"""The commands that are answered by a table."""

COMMANDS: Final = (
    *TABLES, "version", "getpid", "verbose", "maxqueue", "shutdown", "shutdown graceful",
    "create function", "drop function", "cancel job",
)  # fmt: skip
"""What gearmand 1.1.20 knows."""


class Command(NamedTuple):
    """A command by its name, one of COMMANDS, and its arguments."""

    name: str
    args: tuple[str, ...] = ()

    def encode(self) -> bytes:
        """The command as a line. Raises WrongCall for an argument that would be two, or none."""
        for arg in self.args:
            if not arg or len(arg.split()) != 1 or "\0" in arg:
                raise WrongCall(f"an argument of {self.name!r} is one word without spaces; got {arg!r}")
        return Line(" ".join((self.name, *self.args))).encode()


def parse_command(line: Line) -> Command | None:
    """The command in a line, case aside; None where it is none of COMMANDS."""
    words = line.text.split()
    for count in range(min(len(words), 3), 0, -1):
        name = " ".join(words[:count]).lower()
        if name in COMMANDS:
            return Command(name, tuple(words[count:]))
    return None


# -- answers of one line ---------------------------------------------------------------------------------------------


def ok(value: str = "") -> Line:
    """The answer that says yes, with what was asked for."""
    return Line(f"OK {value}" if value else "OK")


def refuse(code: str, reason: str = "") -> Line:
    """The answer that says no: a code in capitals, and why."""
    return Line(f"ERR {code} {quote_plus(reason)}" if reason else f"ERR {code}")


def parse_answer(line: Line) -> str:
    """What comes behind ``OK``; a line without either word is itself the answer. Raises ServerRefused for ``ERR``."""
    word, _, rest = line.text.partition(" ")
    if word == "ERR":
        code, _, reason = rest.partition(" ")
        raise ServerRefused(code, unquote_plus(reason))
    return rest if word == "OK" else line.text


# -- the rows of tables ----------------------------------------------------------------------------------------------


class FunctionStatus(NamedTuple):
    """A row of ``status``: jobs of a function that wait or run, those that run, and workers that can do it."""

    function: str
    total: int
    running: int
    workers: int

    def line(self) -> Line:
        return _row(self)

    @classmethod
    def parse(cls, line: Line) -> FunctionStatus:
        name, *numbers = _columns(line, 4)
        return cls(name, *_numbers(line, numbers))


class FunctionPriorities(NamedTuple):
    """A row of ``prioritystatus``: jobs of a function that wait, by priority, and workers that can do it."""

    function: str
    high: int
    normal: int
    low: int
    workers: int

    def line(self) -> Line:
        return _row(self)

    @classmethod
    def parse(cls, line: Line) -> FunctionPriorities:
        name, *numbers = _columns(line, 5)
        return cls(name, *_numbers(line, numbers))


class WorkerInfo(NamedTuple):
    """A row of ``workers``: a connection by its descriptor, its peer's address and client id, and what it can do."""

    fd: int
    address: str
    client_id: str
    functions: tuple[str, ...]

    def line(self) -> Line:
        return Line(" ".join((str(self.fd), self.address, self.client_id or "-", ":", *self.functions)))

    @classmethod
    def parse(cls, line: Line) -> WorkerInfo:
        head, colon, functions = f"{line.text} ".partition(" : ")
        words = head.split(" ", 2)
        if not colon or len(words) != 3:
            raise MalformedPacket(f"a row of workers is FD ADDRESS CLIENT-ID : FUNCTION ...; got {line.text[:200]!r}")
        return cls(_numbers(line, words[:1])[0], words[1], words[2], tuple(functions.split()))


class JobInfo(NamedTuple):
    """A row of ``show jobs``: its handle, how often it was tried again, whether it is cancelled (0 or 1), whether it
    waits (0 or 1)."""

    handle: str
    retries: int
    ignored: int
    queued: int

    def line(self) -> Line:
        return _row(self)

    @classmethod
    def parse(cls, line: Line) -> JobInfo:
        handle, *numbers = _columns(line, 4)
        return cls(handle, *_numbers(line, numbers))


class TableRow(Protocol):
    """A row of any table."""

    def line(self) -> Line: ...


def table(rows: Iterable[TableRow]) -> bytes:
    """A whole table as bytes, with its end."""
    return b"".join([row.line().encode() for row in rows]) + END.encode()


def _row(columns: Sequence[object]) -> Line:
    return Line("\t".join(map(str, columns)))


def _columns(line: Line, count: int) -> list[str]:
    columns = line.text.split("\t")
    if len(columns) != count:
        raise MalformedPacket(f"a row of this table has {count} columns; got {line.text[:200]!r}")
    return columns


def _numbers(line: Line, columns: Sequence[str]) -> list[int]:
    try:
        return [int(column) for column in columns]
    except ValueError:
        raise MalformedPacket(f"expected numbers in a row of a table; got {line.text[:200]!r}") from None
