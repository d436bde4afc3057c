"""The values of runs as arguments of a run that waits for them: sent as ids, read by the worker that needs them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from skunkqueue.errors import JobError
from skunkqueue.gates.gate import packed_ids, unpacked_ids
from skunkqueue.run import Run, Runs

PAGE: Final = 200
"""Results that are read at a time."""


class ValueOf:
    """Stands for the value of a run, or the values of several, until a worker executes the call."""

    def __init__(self, queue: Any, ids: Any, is_one: bool) -> None:
        self.queue = queue
        self.ids = ids
        self.is_one = is_one

    def __reduce__(self) -> Any:
        return ValueOf, (self.queue, self.ids, self.is_one)

    def read(self) -> Any:
        """The value or values. Of a run that did not succeed: the exception that waiting for it raises."""
        ids = unpacked_ids(self.ids)
        values = [value for at in range(0, len(ids), PAGE) for value in self._page(ids[at : at + PAGE])]
        return values[0] if self.is_one else values

    def _page(self, ids: list[str]) -> list[Any]:
        records = self.queue.store.get(ids)
        return [_outcome(Run(self.queue, id, None, records.get(id))) for id in ids]


def _outcome(run: Run[Any]) -> Any:
    try:
        return run._outcome()
    except JobError as error:
        return error


def placed(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], awaited: frozenset[str]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with what is awaited replaced: handles of runs, alone or in a list, tuple or dict."""
    return tuple(_placed(value, awaited) for value in args), {n: _placed(v, awaited) for n, v in kwargs.items()}


def _placed(value: Any, awaited: frozenset[str], depth: int = 1) -> Any:
    kind = type(value)
    if kind is Run:
        return ValueOf(value._queue, packed_ids([value.id]), True) if value.id in awaited else value
    if kind is Runs:
        whole = len(value) and all(run.id in awaited for run in value)
        return ValueOf(value[0]._queue, packed_ids(run.id for run in value), False) if whole else value
    if depth and kind in (list, tuple):
        return kind(_placed(each, awaited, 0) for each in value)
    if depth and kind is dict:
        return {name: _placed(each, awaited, 0) for name, each in value.items()}
    return value


def read_values(args: Any, kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments as the job is to have them. Raises StoreAway where they cannot be read now."""
    return tuple(_read(value) for value in args), {name: _read(value) for name, value in kwargs.items()}


def _read(value: Any) -> Any:
    kind = type(value)
    if kind is ValueOf:
        return value.read()
    if kind in (list, tuple) and any(type(each) is ValueOf for each in value):
        return kind(each.read() if type(each) is ValueOf else each for each in value)
    if kind is dict and any(type(each) is ValueOf for each in value.values()):
        return {name: each.read() if type(each) is ValueOf else each for name, each in value.items()}
    return value
