"""Mends a queue of which keys were deleted, or hold another kind of value: makes the sets anew from the runs.

What is of another kind is moved aside: Redis refuses every command on such a key, and scripts with it. Without this the
whole queue would stand still.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from skunkqueue.errors import StoreError
from skunkqueue.persistence.redis.wire import CHUNK

ASIDE: Final = 7 * 86400
"""Seconds for which what was moved aside is kept, under ``<base key>:aside:...``, for whoever wants to look at it."""

_TYPES: Final[Mapping[bytes, bytes]] = {
    **dict.fromkeys((b"run", b"claims", b"done", b"gone", b"count", b"unique", b"waiting"), b"hash"),
    **dict.fromkeys((b"queues", b"about", b"ears"), b"hash"),
    **dict.fromkeys((b"pages", b"ripe", b"ended", b"expires", b"mark", b"bell", b"call", b"until"), b"zset"),
    b"page": b"string",
    b"orders": b"list",
}
"""The type of each key, by the word behind its base key."""

FEW: Final = 20
"""Runs that are looked at in one call, whose envelopes come along."""

_SIGNALS: Final = frozenset({b"mark", b"bell", b"call", b"waiting"})
"""Keys that only wake somebody: without them whoever waits looks a little later."""

Ask = Callable[[str, tuple[Any, ...]], Any]
"""Sends a command about a key; returns the reply."""


def is_of_a_wrong_type(error: StoreError) -> bool:
    """Whether a command was refused because its key holds another kind of value."""
    return "WRONGTYPE" in str(error.__cause__)


def mend(base: str, ask: Ask, restore: Callable[[list[Any]], Any]) -> None:
    """Mend all keys below a base key. ``restore`` calls the script.

    Of several who meet the same at once, each mends what it has moved aside.
    """
    keys = list(_keys(base, ask))
    wrong = [key for key in keys if _is_wrong(base, key, ask)]
    words = {_word(base, key) for key in wrong if _move_aside(base, key, ask)}
    if words - _SIGNALS and not base.endswith("{@}"):
        _restore(base, ask, restore, keys, anew=bool(words & {b"page", b"pages", b"gone"}))


def _move_aside(base: str, key: bytes, ask: Ask) -> bool:
    """Move a key aside; False if another has done so just now."""
    aside = f"{base}:aside:".encode() + key[len(base) + 1 :]
    try:
        ask(base, ("RENAME", key, aside))
    except StoreError as error:
        if "no such key" not in str(error.__cause__):
            raise
        return False
    ask(base, ("EXPIRE", aside, ASIDE))
    return True


def mend_lost(base: str, ask: Ask, run: Callable[[str, list[Any]], Any], lost: str) -> None:
    """Mend a queue of which keys were deleted, by what ``purge`` says of it; ``run`` calls a script.

    Deleted envelopes are gone, and their runs with them. Whose claim was deleted runs again, as after a lapse, and
    whose result was deleted has none.
    """
    if "x" in lost:
        run("drop", [])
        return
    if lost != "r":
        keys = list(_keys(base, ask)) if "p" in lost else []
        _restore(base, ask, lambda args: run("restore", args), keys, anew="p" in lost, counting="c" in lost)
    if "r" in lost:
        run("recount", [])


def _restore(
    base: str,
    ask: Ask,
    restore: Callable[[list[Any]], Any],
    keys: list[bytes],
    *,
    anew: bool,
    counting: bool = True,
) -> None:
    pages = [key for key in keys if anew and _word(base, key) in (b"page", b"pages", b"gone")]
    if pages or counting:
        ask(base, ("DEL", *pages, *([f"{base}:count"] if counting else [])))
    cursor: bytes | int = 0
    while True:
        cursor, found = ask(base, ("HSCAN", f"{base}:run", cursor, "COUNT", FEW))
        ids = found[::2]
        while ids:
            looked = restore([int(anew), int(counting), *ids[:CHUNK]])
            ids = ids[looked:]
        if int(cursor) == 0:
            return


def _keys(base: str, ask: Ask) -> Iterator[bytes]:
    pattern = "".join(f"\\{c}" if c in "[]*?\\^" else c for c in base) + ":*"
    cursor: bytes | int = 0
    while True:
        cursor, found = ask(base, ("SCAN", cursor, "MATCH", pattern, "COUNT", 1000))
        yield from found
        if int(cursor) == 0:
            return


def _word(base: str, key: bytes) -> bytes:
    return key[len(base) + 1 :].partition(b":")[0]


def _is_wrong(base: str, key: bytes, ask: Ask) -> bool:
    expected = _TYPES.get(_word(base, key))
    return expected is not None and ask(base, ("TYPE", key)) not in (expected, b"none")
