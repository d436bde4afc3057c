"""Reloading: what new workers import in place of the old ones, and what happens if they cannot."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from skunkqueue.envelope import Claim, open_body, open_head
from skunkqueue.errors import PayloadError
from skunkqueue.importing import BY_VALUE
from skunkqueue.worker.pool.log import Log
from skunkqueue.worker.pool.log_entry import ERROR
from skunkqueue.worker.pool.settings import Settings
from skunkqueue.worker.pool.slot import Slot

_GONE: Final = re.compile(r"cannot import (\S+): ModuleNotFoundError: No module named '([^']+)'")


class Renewal:
    """All on the engine's thread, but that any thread may set ``asked``.

    New workers import at their start also the modules that the old ones had imported for their jobs. So a module that
    is broken now keeps them from starting, and none of its runs is claimed until it is mended.
    """

    def __init__(self, settings: Settings, log: Log) -> None:
        self.asked: str = ""
        """Why the workers are to be replaced in the next turn; empty if they are not."""
        self.waits: bool = settings.reload
        """Whether a worker that cannot import its modules waits for the next reload."""
        self._settings = settings
        self._log = log
        self._count = 0

    @property
    def env(self) -> Mapping[str, str]:
        """What the environment of workers has for this. Python's cache takes a file for unchanged that was saved twice
        within a second.
        """
        return {"PYTHONDONTWRITEBYTECODE": "1"} if self._settings.reload else {}

    def begin(self) -> None:
        """Note that the workers are replaced."""
        why, self.asked = self.asked, ""
        self.waits = True
        self._count += 1
        self._log.say(f"{why}: new workers start, the old ones finish what they run", what="reloads")

    def imports(self, slots: Sequence[Slot]) -> list[str]:
        """The modules that a new worker imports when it starts."""
        known = set().union(*(slot.imported for slot in slots)) if self._count else set()
        return [*self._settings.imports, *sorted(known.difference(self._settings.imports))]

    def broken(self, slot: Slot, slots: Sequence[Slot]) -> None:
        """A new worker could not import a module: it waits, but not for a module that was removed."""
        gone = _GONE.fullmatch(slot.broken)
        if gone and gone[1] not in self._settings.imports and f"{gone[1]}.".startswith(f"{gone[2]}."):
            for each in slots:
                each.imported.discard(gone[1])
            slot.broken = ""
            return
        slot.start_at = float("inf")
        sentence = f"{slot.label} {slot.broken}; it takes no runs until the code is mended and reloaded"
        self._log.say(sentence, what="broken", worker=slot.label, level=ERROR, error=slot.broken)


def modules_of(claim: Claim) -> set[str]:
    """The module of a run's job, if it is one that workers import."""
    try:
        body = open_body(claim.envelope.body)
    except PayloadError:
        return set()
    module = open_head(body.head).ref.partition(":")[0]
    return set() if body.code or not module or module in BY_VALUE else {module}
