"""The log of a spool folder: a line per job, which names its file as people know it."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Final, TextIO

from skunkqueue.worker.journal import Journal

_LAST: Final = frozenset({"finished", "failed", "retries", "handed"})
"""Verbs after which a name is said no more, until its run is claimed anew."""


class Lines(Journal):
    """Says ``in/NAME`` for the id of a run, and not that it was taken, unless ``verbose``.

    ``names`` holds the names by id; they are taken out of it when they have been said for the last time.
    """

    def __init__(self, stream: TextIO | None = None, *, verbose: bool = False) -> None:
        super().__init__(stream, verbose=verbose)
        self.names: MutableMapping[str, str] = {}

    def say_all(self, lines: list[str]) -> None:
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
        name = self.names.pop(id, None) if verb in _LAST else self.names.get(id)
        if verb == "took" and not self.verbose:
            return ""
        if name is None:
            return line
        shown = "in/" + (name if name.isprintable() else ascii(name)[1:-1])
        words[at] = f"{shown} ({id})" if self.verbose else shown
        return " ".join(words)
