"""Errors of the FoundationDB client as ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from skunkqueue.errors import StoreAway, StoreError, StoreFull, StoreRefused, WrongCall

# The codes are those of FoundationDB's error_definitions.h.
TOO_OLD: Final = 1007
NOT_COMMITTED: Final = 1020
UNKNOWN_RESULT: Final = 1021
TIMED_OUT: Final = 1031
TOO_MANY_WATCHES: Final = 1032
NO_CLUSTER_FILE: Final = 1515
TOO_LARGE: Final = 2101

_AWAY: Final = frozenset(
    {1000, 1001, 1004, 1006, 1007, 1009, 1020, 1021, 1025, 1026, 1031, 1037, 1038, 1039, 1042, 1051, 1078, 1101}
    | {1213, 1223, 1235, 1511, 1513, 1514, 1515, 1516, 1517, 1518, 1519, 1520, 2002, 2104}
)
"""It cannot be reached, or does not answer now."""

_FULL: Final = frozenset({1510, 1512, 2003})
_REFUSED: Final = frozenset({2101, 2102, 2103})
_RIGHTS: Final = frozenset({6000, 6001})
_TENANT: Final = frozenset({2130, 2131, 2132, 2133})

NO_ADDRESS: Final = "what is in its cluster file is no address of a cluster, like description:id@10.0.0.1:4500"

_SAYS: Final = {
    TIMED_OUT: "it does not answer in time: is the cluster up, and is this its cluster file?",
    NO_CLUSTER_FILE: "there is no cluster file; copy that of the cluster here, or name it as fdb:///path/to/fdb.cluster",
    1513: NO_ADDRESS,
    2104: NO_ADDRESS,
    1518: "its cluster file cannot be read",
    1520: "its cluster file names a cluster that does not know us",
    1038: "the database is locked, for instance by a backup that is being restored",
}


class Gone(StoreError):
    """The directory that holds the runs was moved or removed while it was in use."""


class Forked(StoreError):
    """This process was forked from one that had used FoundationDB."""


@contextmanager
def speaking(url: str) -> Iterator[None]:
    """Turn errors of the client into ours."""
    try:
        yield
    except (StoreError, WrongCall):
        raise
    except Exception as error:
        if not hasattr(error, "code"):
            raise
        raise translated(url, error) from error


def translated(url: str, error: Any) -> StoreError:
    """An error of the client as one of ours."""
    code = int(error.code)
    said = _SAYS.get(code) or _words(error)
    if code in _AWAY:
        return StoreAway(f"FoundationDB at {url} cannot be reached: {said}")
    if code in _REFUSED:
        return StoreRefused(f"it is too large for FoundationDB: {said}")
    if code in _FULL:
        return StoreFull(f"FoundationDB at {url} takes no writes: {said}")
    if code in _RIGHTS:
        return StoreError(f"FoundationDB at {url} does not let us in: {said}")
    if code in _TENANT:
        return StoreError(f"FoundationDB at {url} has no such tenant, or takes none: {said}")
    return StoreError(f"FoundationDB at {url} could not do it: {said}")


def _words(error: Any) -> str:
    text = error.description
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    return f"{text} ({error.code})"
