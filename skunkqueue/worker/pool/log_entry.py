"""Entries of a pool's log, and how they are written: as a line for people, or as a JSON document."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple, Protocol

from skunkqueue.durations import span
from skunkqueue.printable import printable, printable_lines

DEBUG: Final = 10
INFO: Final = 20
WARNING: Final = 30
ERROR: Final = 40
"""The levels of ``logging``, which need not be loaded for them."""

LEVELS: Final[Mapping[int, str]] = {DEBUG: "DEBUG", INFO: "INFO", WARNING: "WARNING", ERROR: "ERROR"}

_PHRASES: Final[Mapping[str, str]] = {"dropped": "let go of", "killed": "is killed:"}
"""The phrase that a line has for the word in ``what``, where they differ."""


class LogEntry(NamedTuple):
    """One event. Its texts may hold any characters; control characters are escaped when it is written.

    ``what`` is one word for programs: took, finished, failed, retries, started, died ... ``took`` are the seconds that
    the run ran. Where ``subject`` names the run (its id, or what its source calls it), the line is made of the fields
    and ends with ``text``: the result of a run that finished, else the rest of the sentence. Without ``subject``,
    ``text`` is the whole sentence.
    """

    what: str = ""
    worker: str = ""
    run: str = ""
    job: str = ""
    took: float | None = None
    text: str = ""
    subject: str = ""
    error: str = ""
    traceback: str = ""
    level: int = INFO

    @property
    def message(self) -> str:
        """The line without its time and its traceback, fit for a log and a terminal."""
        return printable(_sentences("", [self])[0])

    @property
    def trace(self) -> str:
        """The traceback to append to the line, escaped too, and indented, so that its lines differ from log lines."""
        if not self.traceback:
            return ""
        return "".join(f"\n    {line}" for line in printable_lines(self.traceback.rstrip()))

    def fields(self) -> dict[str, Any]:
        """The fields that are not empty, unchanged: for programs."""
        found = {name: value for name in FIELDS if (value := getattr(self, name)) not in ("", None)}
        if self.subject == self.run:
            found.pop("subject", None)
        return found

    def refused(self) -> LogEntry:
        """The entry to log instead if the source did not take the outcome."""
        sentence = f"refused: {self.message} (its lease was taken away meanwhile; nothing was written)"
        return self._replace(what="refused", text=sentence, subject="", traceback="", level=WARNING)


def _sentences(opening: str, entries: Sequence[LogEntry], end: str = "") -> list[str]:
    """The line of each entry, unescaped. One loop, because there may be very many."""
    lines = []
    for what, worker, _, job, took, text, subject, _, _, _ in entries:
        if not subject:
            lines.append(f"{opening}{text}{end}")
        elif took is not None and what == "finished":
            spent = f"{took * 1000:.2f} ms" if took < 0.9995 else span(took)
            lines.append(f"{opening}{worker} finished {subject} {job} in {spent}: {text}{end}")
        else:
            lines.append(f"{opening}{worker} {_PHRASES.get(what, what)} {subject} {job}{text}{end}")
    return lines


FIELDS: Final = ("what", "run", "job", "worker", "subject", "took", "error", "traceback")


Batch = tuple[float, Sequence[LogEntry]]
"""Entries of one time (seconds since the epoch)."""


class Format(Protocol):
    """Makes the texts for a stream from entries, line ends included."""

    def __call__(self, batches: Sequence[Batch]) -> list[str]: ...


class TextFormat:
    """Lines for people. Each begins with the local time to the millisecond; a traceback follows its line."""

    def __init__(self) -> None:
        self._time = _LocalTime("%Y-%m-%d %H:%M:%S")

    def __call__(self, batches: Sequence[Batch]) -> list[str]:
        return [line for when, entries in batches for line in self._lines(self._time(when), entries)]

    def _lines(self, stamp: str, entries: Sequence[LogEntry]) -> list[str]:
        lines = _sentences(f"{stamp} ", entries, "\n")
        if _are_fit(lines) and not any(map(_TRACEBACK, entries)):
            return lines
        return [f"{stamp} {entry.message}{entry.trace}\n" for entry in entries]


class JsonFormat:
    """One JSON document a line: time (ISO 8601, with the offset), level, message, and the fields of the entry."""

    def __init__(self) -> None:
        self._time = _LocalTime("%Y-%m-%dT%H:%M:%S")

    def __call__(self, batches: Sequence[Batch]) -> list[str]:
        return [self._line(when, entry) for when, entries in batches for entry in entries]

    def _line(self, when: float, entry: LogEntry) -> str:
        moment = self._time(when) + self._time.offset
        document = {"time": moment, "level": LEVELS[entry.level], "message": entry.message, **entry.fields()}
        return json.dumps(document) + "\n"


FORMATS: Final[Mapping[str, type[TextFormat] | type[JsonFormat]]] = {"text": TextFormat, "json": JsonFormat}

_TRACEBACK: Final = itemgetter(LogEntry._fields.index("traceback"))
_PRINTABLE: Final = bytes(range(32, 127))


def _are_fit(lines: Sequence[str]) -> bool:
    """Whether all lines are printable ASCII; one quick check of many lines."""
    text = "".join(lines)
    return text.isascii() and len(text.encode().translate(None, _PRINTABLE)) == len(lines)


class _LocalTime:
    """The local time to the millisecond. The part down to the second is formatted once a second."""

    def __init__(self, form: str) -> None:
        self._form = form
        self._second = -1
        self._text = ""
        self.offset = ""  # from UTC, at that time

    def __call__(self, when: float) -> str:
        second = int(when)
        if second != self._second:
            there = time.localtime(second)
            self._second, self._text = second, time.strftime(self._form, there)
            offset = time.strftime("%z", there)
            self.offset = f"{offset[:3]}:{offset[3:]}"
        return f"{self._text}.{int((when - second) * 1000):03d}"
