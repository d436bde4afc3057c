"""The log of a spool folder: a line per job, which names its file as people know it."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Final, TextIO

from skunkqueue.spool.reading import UNREAD
from skunkqueue.worker.pool.log import Log

_LAST: Final = frozenset({"finished", "failed", "retries", "handed"})
"""Verbs after which a name is said no more, until its run is claimed anew."""


class Lines(Log):
    """Says ``in/NAME`` for the id of a run, and not that it was taken, unless ``verbose``.

    ``names`` holds the names by id; they are taken out of it when they have been said for the last time. So does
    ``types`` for files that were handed out unread: empty for one that was not processed, of which nothing is said.
    """

    def __init__(self, stream: TextIO | None = None, *, verbose: bool = False) -> None:
        super().__init__(stream, verbose=verbose)
        self.names: MutableMapping[str, str] = {}
        self.types: MutableMapping[str, str] = {}

    def say_all(self, lines: list[str]) -> None:
        if lines and not self.verbose and lines[0].split(" ", 2)[1:2] == ["took"]:
            return  # those of one batch, and nothing else, are said together
        super().say_all([said for line in lines if (said := self._named(line))])

    def say(self, line: str) -> None:
        super().say(self._named(line))

    def _named(self, line: str) -> str:
        """The line with the name in place of the id; empty where it need not be said."""
        words = line.split(" ", 4)  # worker, verb, id, ...
        if len(words) < 4:
            return line
        verb = words[1]
        at = 3 if verb == "handed" else 2
        id = words[at]
        last = verb in _LAST
        name = self.names.pop(id, None) if last else self.names.get(id)
        type = self.types.pop(id, None) if last else None
        if name is None or type == "":
            return "" if type == "" else line
        if type is not None:
            words[at + 1] = words[at + 1].replace(UNREAD, type, 1)
        shown = "in/" + (name if name.isprintable() else ascii(name)[1:-1])
        words[at] = f"{shown} ({id})" if self.verbose else shown
        return " ".join(words)
