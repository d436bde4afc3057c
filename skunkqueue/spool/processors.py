"""The processors of a spool folder's jobs: functions and classes by type, and how workers get them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final

from skunkqueue.codec import pickle_function
from skunkqueue.errors import PayloadError, WrongCall
from skunkqueue.job import Carried
from skunkqueue.run import current_run
from skunkqueue.spool.contents import MOST_TYPE

LONGEST_SHOWN: Final = 1000


class Processor:
    """A function of a job's data, or a class whose ``run`` is; called, it processes one job."""

    def __init__(self, target: Callable[..., Any]) -> None:
        self.target = target

    def __call__(self, data: Any) -> Any:
        target: Any = self.target
        value = target().run(data) if isinstance(target, type) else target(data)
        if inspect.iscoroutine(value):
            import asyncio

            value = asyncio.run(value)
        return _shown(value)


def _shown(value: Any) -> Any:
    """Drop results that the log cannot show: nobody waits for them, so they need not be sent."""
    if value is None or type(value) in (bool, float):
        return value
    if type(value) is int and -(2**63) <= value < 2**63:
        return value
    return value if type(value) is str and len(value) <= LONGEST_SHOWN else None


class Processors(Mapping[str, Carried]):
    """The processors by type, as workers in this process look for them. May change at any time.

    ``data_of`` returns the dictionary of a run by its id, so that it need not be encoded within a process.
    """

    def __init__(self, data_of: Callable[[str], Any]) -> None:
        self._data_of = data_of
        self._by_type: dict[str, Processor] = {}

    def register(self, type: str, target: Callable[..., Any]) -> Callable[..., Any] | None:
        """Register a processor; returns the one that was registered before. Raises WrongCall."""
        if not isinstance(type, str) or not 0 < len(type) <= MOST_TYPE:
            raise WrongCall(f"a type is a text of 1 to {MOST_TYPE} characters, got {type!r}")
        _check(type, target)
        old = self._by_type.get(type)
        self._by_type[type] = Processor(target)
        return None if old is None else old.target

    def processor(self, type: str) -> Processor | None:
        return self._by_type.get(type)

    def codes(self) -> dict[str, bytes]:
        """The processors by type as worker processes get them; those that cannot travel are left out."""
        found = {}
        for type, processor in list(self._by_type.items()):
            with suppress(PayloadError, UnicodeEncodeError):
                type.encode()
                found[type] = pickle_function(Carried(processor, type))
        return found

    def __getitem__(self, type: str) -> Carried:
        # The worker caches what is returned here, so the processor is looked up at each job.
        return Carried(partial(self._process, type), type)

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_type)

    def __len__(self) -> int:
        return len(self._by_type)

    def __bool__(self) -> bool:
        return True

    def _process(self, type: str) -> Any:
        return self._by_type[type](self._data_of(current_run().id))


def _check(type: str, target: Any) -> None:
    if not callable(target):
        raise WrongCall(f"the processor of {type!r} is a function, or a class with a run(data) method; got {target!r}")
    if inspect.isclass(target) and not callable(getattr(target, "run", None)):
        raise WrongCall(f"{target.__name__}, the processor of {type!r}, has no run(data) method")
