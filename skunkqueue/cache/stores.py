"""What keeps answers: the few verbs of such a store, and where one is found by its URL."""

from __future__ import annotations

import importlib
import re
from abc import ABC, abstractmethod
from typing import Final, NamedTuple

from skunkqueue.cache.key import CachedCall
from skunkqueue.distribution import pip_install, with_extra
from skunkqueue.errors import WrongCall
from skunkqueue.persistence.url import without_secrets

_MODULES: Final = {
    "mongodb": ("mongodb", with_extra("mongodb")),
    "mongodb+srv": ("mongodb", with_extra("mongodb")),
    "redis": ("redis", with_extra("redis")),
    "rediss": ("redis", with_extra("redis")),
    "unix": ("redis", with_extra("redis")),
    "sqlite": ("sqlite", ""),
    "memory": ("memory", ""),
}
"""By scheme: the module that opens it, and what to install for it."""

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,99}")


class KeptAnswer(NamedTuple):
    """An answer as it is kept: encoded, and when it was computed, in seconds since the epoch."""

    value: bytes
    made: float


class AnswerStore(ABC):
    """Keeps answers until they expire, and says who computes one. All verbs raise StoreAway when it is away.

    Times are seconds since the epoch. Any number of threads and processes may use one.
    """

    @abstractmethod
    def get(self, key: str, *, now: float) -> KeptAnswer | None:
        """The answer of that key, unless it has expired."""

    @abstractmethod
    def put(self, question: CachedCall, answer: KeptAnswer, *, expires: float) -> None:
        """Keep an answer in place of an older one. Raises StoreRefused for one that is too large."""

    @abstractmethod
    def forget(self, key: str) -> None:
        """Keep it no longer."""

    @abstractmethod
    def claim(self, key: str, token: str, *, now: float, until: float) -> bool:
        """Whether the holder of the token may compute that answer; a claim of somebody else stands until its time."""

    @abstractmethod
    def extend(self, key: str, token: str, *, until: float) -> None:
        """The holder of the token computes on."""

    @abstractmethod
    def release(self, key: str, token: str) -> None:
        """The holder of the token is done."""

    @abstractmethod
    def close(self) -> None:
        """Close connections."""


class Place(NamedTuple):
    """Where answers are kept: a URL, and names of a database and a collection within it. Raises WrongCall."""

    url: str
    dbname: str
    collection: str

    def check(self) -> Place:
        """This place, if it can be one. Opens nothing."""
        scheme, is_url, _ = str(self.url).partition("://")
        if not is_url or scheme.lower() not in _MODULES:
            kinds = ", ".join(f"{name}://" for name in _MODULES)
            raise WrongCall(
                f"a cache is at a URL that begins with one of {kinds}; got {without_secrets(str(self.url))!r}"
            )
        for what, name in (("dbname", self.dbname), ("collection", self.collection)):
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise WrongCall(f"{what} is letters, digits, '_', '-' and '.'; got {name!r}")
        return self

    @property
    def shown(self) -> str:
        """The URL without secrets."""
        return without_secrets(self.url)

    def open(self) -> AnswerStore:
        """Open it, without connecting yet. Raises WrongCall, also where its driver is missing."""
        name, install = _MODULES[self.url.partition("://")[0].lower()]
        try:
            store: AnswerStore = importlib.import_module(f"skunkqueue.cache.{name}").open_place(self)
        except ImportError as error:
            raise WrongCall(f"a cache at {self.shown} needs its driver: {pip_install(install)} ({error})") from error
        return store
