"""The FoundationDB client of this process: loaded once, its network thread started once, unusable after a fork."""

from __future__ import annotations

import os
import threading
from typing import Any, Final

from skunkqueue.errors import StoreError
from skunkqueue.persistence.fdb.errors import Forked

API_VERSION: Final = 710
"""What of the client we use. Whoever chooses another first in this process has theirs; this is the least."""

STARTS: Final = 5.0
"""Seconds that another thread may take to start the network thread."""

_lock = threading.Lock()
_inherited: list[Any] = []


def client(url: str) -> Any:
    """The module ``fdb``, with its API version chosen. Raises StoreError, and Forked in a forked process."""
    import fdb

    with _lock:
        if not fdb.is_api_version_selected():
            _choose(fdb, url)
        chosen = fdb.get_api_version()
    if chosen < API_VERSION:
        raise StoreError(
            f"this process has chosen API version {chosen} of FoundationDB; "
            f"SkunkQueue needs {API_VERSION} or a newer one"
        )
    refuse_fork(fdb)
    return fdb


def _choose(fdb: Any, url: str) -> None:
    known = getattr(fdb, "LATEST_API_VERSION", API_VERSION)  # 7.1 does not say: it knows 710
    if known < API_VERSION:
        raise StoreError(
            f"FoundationDB at {url} needs a foundationdb package of version 7.1 or newer: "
            f"this one knows API version {known} only"
        )
    try:
        fdb.api_version(API_VERSION)
    except Exception as error:  # the binding raises whatever its loader does, and Exception itself
        library = _known_to_library(fdb)
        if API_VERSION <= library < known:
            version = f"{library // 100}.{library // 10 % 10}"
            raise StoreError(
                f"the foundationdb package is newer than FoundationDB's client library, which is of version {version}, "
                f"and cannot use it: pip install 'foundationdb=={version}.*'"
            ) from error
        raise StoreError(
            f"FoundationDB at {url} needs its client library, of version 7.1 or newer: install foundationdb-clients "
            f"({type(error).__name__}: {str(error).strip()[:200]})"
        ) from error


def _known_to_library(fdb: Any) -> int:
    """The newest API version that the client library knows; 0 if it was not loaded."""
    impl = getattr(fdb, "impl", None)
    return 0 if impl is None else int(impl._capi.fdb_get_max_api_version())


def tenant_of(fdb: Any, db: Any, name: str) -> Any:
    """A tenant of a database. Raises StoreError where the client has none."""
    if not hasattr(fdb, "Tenant"):  # that of 8.0 still has open_tenant, which gives nothing
        raise StoreError(
            f"the URL names the tenant {name}, and the foundationdb package here has none: they came with "
            "FoundationDB 7.1 and went with 8.0; leave the tenant out, or install the package of 7.3"
        )
    return db.open_tenant(name.encode())


def refuse_fork(fdb: Any) -> None:
    """Raise Forked if the network thread was started by a process that this one was forked from: here it is dead."""
    if not _network_is_dead(fdb.impl):
        return
    starting = getattr(fdb.impl, "_network_thread_reentrant_lock", None)  # held by a thread that is just starting it
    if starting is not None and starting.acquire(timeout=STARTS):
        starting.release()
    if _network_is_dead(fdb.impl):
        raise Forked(
            f"process {os.getpid()} was forked from one that had used FoundationDB, whose client does not survive a "
            "fork: start it afresh (multiprocessing's spawn, a web server that does not preload), or use FoundationDB "
            "after the fork only"
        )


def _network_is_dead(impl: Any) -> bool:
    thread = getattr(impl, "_network_thread", None)
    return thread is not None and not thread.is_alive()


def keep_inherited(*things: Any) -> None:
    """Keep what a forked process inherited from being collected: that would call the client, which is dead."""
    _inherited.append(things)
