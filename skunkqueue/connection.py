"""A store opened in this process, with its clock and its watcher: what queue, run and watcher share."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from skunkqueue.clock import Clock
from skunkqueue.errors import WrongCall
from skunkqueue.persistence.url import Address, find_backend, get_backend

if TYPE_CHECKING:
    from skunkqueue.watcher import Watcher

POOL_URL: Final = "SKUNKQUEUE_POOL_URL"
"""Where a pool tells a worker its store's URL, secrets and all, which never travel with a queue."""

_pool_url = ""


def pool_url() -> str:
    """The URL of the store of the pool that this process is a worker of; empty where it is none."""
    return _pool_url


def take_pool_url() -> None:
    """In a worker: keep what the pool told of its store, out of reach of what jobs start."""
    global _pool_url
    _pool_url = os.environ.pop(POOL_URL, "")


class _Connections:
    """The stores open in this process, as long as it has not forked."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.by_address: dict[Address, Connection] = {}


class Connection:
    """A store in use, with its clock and its watcher."""

    def __init__(self, address: Address, siblings: _Connections) -> None:
        self.address = address
        self._siblings = siblings
        if find_backend(address.backend).one_process and pool_url():
            raise WrongCall(
                f"a job in a worker process cannot use a {address.backend}:// store, which lives in one process only: "
                "give the pool in_process=True, or use sqlite://"
            )
        self.store = get_backend(address.url, address.backend)
        self.clock = Clock(self.store.offset)
        self.users: WeakSet[Any] = WeakSet()
        self._watcher: Watcher | None = None

    @property
    def is_here(self) -> bool:
        """Whether it was opened by this process, and not by one that it was forked from."""
        return self._siblings is _connections

    def watch(self) -> Watcher:
        """The one that waits for all who await runs."""
        with self._siblings.lock:
            if self._watcher is None:
                from skunkqueue.watcher import Watcher

                self._watcher = Watcher(self.store)
            return self._watcher


_connections = _Connections()
_inherited: list[_Connections] = []


def _forked() -> None:
    """A forked process opens its own connections; the inherited ones are left untouched, so not even collected."""
    global _connections
    _inherited.append(_connections)
    _connections = _Connections()


os.register_at_fork(after_in_child=_forked)


def connect(address: Address, user: Any) -> Connection:
    """The connection to a store, which all users of equal configuration share within a process."""
    open_here = _connections
    with open_here.lock:
        connection = open_here.by_address.get(address)
        if connection is None:
            connection = open_here.by_address[address] = Connection(address, open_here)
        connection.users.add(user)
        return connection


def let_go(connection: Connection, user: Any) -> None:
    """This user needs it no more; with the last one it is closed."""
    if not connection.is_here:
        return
    with _connections.lock:
        connection.users.discard(user)
        unused = not connection.users and _connections.by_address.pop(connection.address, None) is not None
    if unused:
        connection.store.close()
