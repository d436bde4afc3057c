"""The log of a spool folder: a line per job, which names its file as people know it."""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from typing import TextIO

from skunkqueue.worker.journal import Journal

_RUN = re.compile(r" (?:took |(?:finished|failed|retries|handed back) )([0-9a-f]{28})\b")


class Lines(Journal):
    """Says ``in/NAME`` for the id of a run, and not that it was taken, unless ``verbose``.

    ``names`` holds the names by id; they are taken out of it when they have been said for the last time.
    """

    def __init__(self, stream: TextIO | None = None, *, verbose: bool = False) -> None:
        super().__init__(stream, verbose=verbose)
        self.names: MutableMapping[str, str] = {}

    def say_all(self, lines: list[str]) -> None:
        if self.verbose:
            super().say_all([self._with_name(line, "{} ({})") for line in lines])
        else:
            super().say_all([self._with_name(line, "{}") for line in lines if " took " not in line])

    def say(self, line: str) -> None:
        super().say(self._with_name(line, "{}"))

    def _with_name(self, line: str, shown: str) -> str:
        found = _RUN.search(line)
        if found is None:
            return line
        id = found[1]
        name = self.names.get(id) if " took " in found[0] else self.names.pop(id, None)
        if name is None:
            return line
        start, end = found.span(1)
        name = name if name.isprintable() else ascii(name)[1:-1]
        return f"{line[:start]}{shown.format('in/' + name, id)}{line[end:]}"
