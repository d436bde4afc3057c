"""Calls a store so that one item that it cannot deal with does not stop the others of the same call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from skunkqueue.errors import StoreAway, StoreFull, StoreVersion

Item = TypeVar("Item")
Result = TypeVar("Result")

WHOLE: Final = (StoreAway, StoreFull, StoreVersion)
"""What concerns the whole store, and no single item."""


def by_halves(
    call: Callable[[Sequence[Item]], Result], items: Sequence[Item]
) -> tuple[list[Result], list[tuple[Item, Exception]]]:
    """The results of the call, made on as few parts of the items as it takes, and the items that raise by themselves.

    Raises what concerns the whole store, and what the call raises on each and every item.
    """
    results: list[Result] = []
    failed: list[tuple[Item, Exception]] = []

    def attempt(part: Sequence[Item]) -> None:
        try:
            results.append(call(part))
        except WHOLE:
            raise
        except Exception as error:
            if len(part) <= 1:
                failed.extend((item, error) for item in part)
                if not part:
                    raise
                return
            attempt(part[: len(part) // 2])
            attempt(part[len(part) // 2 :])

    attempt(items)
    if failed and not results:
        raise failed[0][1]
    return results, failed
