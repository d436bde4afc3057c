"""The unique keys of submissions that came here, with the runs that they met."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from skunkqueue.gearman.server.names import unique_of

MOST: Final = 20_000
"""Keys that are remembered; the oldest go first."""


class SubmittedKeys:
    """Ids of runs, by key and route, which has the priority."""

    def __init__(self) -> None:
        self._by_key: dict[str, dict[str, str]] = {}
        self._by_unique: dict[bytes, dict[str, None]] = {}  # the keys of all functions, as clients name them

    def of(self, key: str) -> Mapping[str, str]:
        """The runs with this key, by route."""
        return self._by_key.get(key, {})

    def ids_of(self, unique: bytes) -> list[str]:
        """The runs with this key, whatever their function."""
        return [id for key in self._by_unique.get(unique, ()) for id in self._by_key[key].values()]

    def add(self, key: str, route: str, id: str) -> None:
        """A submission with this key met, or made, this run."""
        known = self._by_key.pop(key, {})
        known[route] = id
        self._by_key[key] = known  # behind the others
        self._by_unique.setdefault(unique_of(key), {})[key] = None
        if len(self._by_key) > MOST:
            self._forget(next(iter(self._by_key)))

    def _forget(self, key: str) -> None:
        del self._by_key[key]
        unique = unique_of(key)
        keys = self._by_unique[unique]
        del keys[key]
        if not keys:
            del self._by_unique[unique]
