"""A store opened in this process, with its clock and its watcher: what queue, run and watcher share."""

from __future__ import annotations

import os
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from skunkqueue.clock import Clock
from skunkqueue.errors import WrongCall
from skunkqueue.persistence.url import HIDDEN, Address, find_backend, get_backend, locate, without_secrets

if TYPE_CHECKING:
    from skunkqueue.persistence import Persister
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


_urls: dict[tuple[str, str], str] = {}
"""The URLs with secrets in them that this process was given, by what may be shown of them and the queue's name; the
last one given stands under "" too."""


def remember_url(url: str, queue: str) -> None:
    """Keep a URL that this process was given, so that handles that come from elsewhere find their store with it."""
    public = without_secrets(url)
    if public != url and not public.endswith(f"://{HIDDEN}") and full_url(public, queue) != url:
        _urls[public, queue] = _urls[public, ""] = url


def full_url(public: str, queue: str) -> str:
    """The URL of a queue that came without its secrets, with those that this process has for that store.

    They are those of the queue of that name, else of the pool that this process works for, else of another queue, else
    of SKUNKQUEUE_URL. Where there are none, it stays as it came.
    """
    given = (_urls.get((public, queue)), _pool_url, _urls.get((public, "")), os.environ.get("SKUNKQUEUE_URL"))
    return next((url for url in given if url and without_secrets(url) == public and HIDDEN not in url), public)


_home: ContextVar[Address | None] = ContextVar("skunkqueue_home", default=None)


def home() -> Address | None:
    """The store that a pickle lies in which is being written or read, as far as that is known.

    A queue of that very store is found again by whatever name the store has where it is read.
    """
    return _home.get() or (locate(_pool_url) if _pool_url else None)


class at_home:  # noqa: N801 - used as a function; a generator would cost three times as much at every fire
    """In this context pickles lie in that store."""

    __slots__ = ("_address", "_token")

    def __init__(self, address: Address | None) -> None:
        self._address = address

    def __enter__(self) -> None:
        self._token = _home.set(self._address)

    def __exit__(self, *_: object) -> None:
        _home.reset(self._token)


class _Connections:
    """The stores open in this process, as long as it has not forked."""

    def __init__(self) -> None:
        self.lock: threading.Lock = threading.Lock()
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
        self.store: Persister = get_backend(address.url, address.backend)
        self.clock: Clock = Clock(self.store.offset)
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

                self._watcher = Watcher(self.store, self.clock)
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
