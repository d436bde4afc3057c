"""Calls a store so that one item that it cannot process does not stop the others of the same call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from skunkqueue.errors import StoreAway, StoreFull, StoreVersion, WrongStore

Item = TypeVar("Item")
Result = TypeVar("Result")

WHOLE: Final = (StoreAway, StoreFull, StoreVersion, WrongStore)
"""Errors that concern the whole store, not a single item."""


def isolated(
    call: Callable[[Sequence[Item]], Result], items: Sequence[Item], *, of_one: type[Exception] = Exception
) -> tuple[list[Result], list[tuple[Item, Exception]]]:
    """Call with all items; where that fails, with each half. Returns the results, and the items that fail alone.

    ``of_one`` is the type of error that a single item may cause. All other errors, and those of ``WHOLE``, are raised.
    """
    results: list[Result] = []
    failed: list[tuple[Item, Exception]] = []

    def attempt(part: Sequence[Item]) -> None:
        try:
            results.append(call(part))
        except WHOLE:
            raise
        except of_one as error:
            if not part:
                raise
            if len(part) == 1:
                failed.append((part[0], error))
            else:
                attempt(part[: len(part) // 2])
                attempt(part[len(part) // 2 :])

    attempt(items)
    return results, failed


def by_halves(
    call: Callable[[Sequence[Item]], Result], items: Sequence[Item]
) -> tuple[list[Result], list[tuple[Item, Exception]]]:
    """Like ``isolated``, but if every item fails, raises the error of the first: then the items are not at fault."""
    results, failed = isolated(call, items)
    if failed and not results:
        raise failed[0][1]
    return results, failed
