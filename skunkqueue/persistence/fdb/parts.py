"""Splits what one call is given into transactions of less than a megabyte, and those that are too slow into halves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

from skunkqueue.errors import StoreError
from skunkqueue.persistence.fdb.errors import TOO_LARGE, TOO_OLD

BYTES: Final = 800_000
"""Bytes of what one transaction writes, roughly; FoundationDB takes 10,000,000, and is at its best below one."""

RUNS: Final = 300
"""Runs of one transaction: it has five seconds, on a slow machine too."""

EACH: Final = 2000
"""Bytes that are written of a run beside what is long of it: itself, its place, and their conflicts."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def parts(items: Sequence[Item], size: Callable[[Item], int], most: int = RUNS) -> Iterator[Sequence[Item]]:
    """The items in order, in parts that one transaction may carry."""
    start = total = 0
    for n, item in enumerate(items):
        cost = EACH + size(item)
        if n > start and (n - start >= most or total + cost > BYTES):
            yield items[start:n]
            start, total = n, 0
        total += cost
    if items:
        yield items[start:]


def in_parts(
    call: Callable[[Sequence[Item]], Result],
    items: Sequence[Item],
    size: Callable[[Item], int] = lambda item: 0,
) -> list[Result]:
    """Call with each part; where a part is too large or too slow for one transaction, with its halves."""
    return [result for part in parts(items, size) for result in _by_halves(call, part)]


def _by_halves(call: Callable[[Sequence[Item]], Result], part: Sequence[Item]) -> list[Result]:
    try:
        return [call(part)]
    except StoreError as error:
        if len(part) == 1 or getattr(error.__cause__, "code", None) not in (TOO_LARGE, TOO_OLD):
            raise
    middle = len(part) // 2
    return [*_by_halves(call, part[:middle]), *_by_halves(call, part[middle:])]
