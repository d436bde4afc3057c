"""What the code of this process declares: jobs with a schedule, and handlers. Light, for all programs with a job."""

from __future__ import annotations

import sys
from typing import Any, Final
from weakref import WeakSet


class Registry:
    """``jobs`` have a schedule, ``handlers`` are called for runs that end; ``modules`` make jobs of any kind.

    ``version`` goes up with each.
    """

    def __init__(self) -> None:
        self.jobs: WeakSet[Any] = WeakSet()
        self.handlers: WeakSet[Any] = WeakSet()
        self.modules: set[str] = set()
        self.version: int = 0
        self._numbers = 0
        self._kept: dict[tuple[str, str, str], Any] = {}

    def made_by(self, module: str) -> None:
        """A job was made by this module."""
        if module not in self.modules:
            self.modules.add(module)
            self.version += 1

    def draw(self) -> int:
        """The place of the next schedule in the order in which they are declared."""
        self._numbers += 1
        return self._numbers

    def add(self, job: Any) -> None:
        """A job has a schedule."""
        self.jobs.add(job)
        self.version += 1

    def add_handler(self, job: Any) -> None:
        """A job is called for runs that end."""
        self.handlers.add(job)
        self.version += 1

    def keep(self, queue: Any, name: str, job: Any) -> None:
        """Keep the job that a schedule asks, for a store of this process: there its function itself is referred to."""
        if queue.one_process:
            self._kept[queue.full_url, queue.name, name] = job

    def of(self, queue: str, url: str | None = None) -> list[Any]:
        """The jobs of a queue, by name; of the queue at this URL, if it is given. Of two of one name the later one."""
        return _ours(sorted(self.jobs.copy(), key=lambda job: job.schedule.number), queue, url)

    def handlers_of(self, queue: str, url: str | None = None) -> list[Any]:
        """The same of the handlers."""
        return _ours(sorted(self.handlers.copy(), key=lambda job: job.handles[-1]), queue, url)


def _ours(ordered: list[Any], queue: str, url: str | None) -> list[Any]:
    ours = [job for job in ordered if job.queue.name == queue and (url is None or job.queue.full_url == url)]
    return list({job.name: job for job in ours}.values())


registry: Final = Registry()


def origin_of(module: str, by_value: bool) -> str:
    """What says of a module whether it is the same one in another process: its name, or the file of a script."""
    if not by_value:
        return module
    file = getattr(sys.modules.get(module), "__file__", None)
    return f"{module} {file}" if isinstance(file, str) else ""
