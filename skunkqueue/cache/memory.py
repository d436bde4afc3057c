"""Answers in the memory of this process, the latest MOST of them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final

from skunkqueue.cache.key import CachedCall
from skunkqueue.cache.stores import AnswerStore, KeptAnswer, Place

MOST: Final = 10_000

_stores: dict[Place, MemoryCache] = {}
_opening = threading.Lock()


def open_place(place: Place) -> AnswerStore:
    """The store of that name; ``memory://`` alone is one that the whole process shares."""
    with _opening:
        return _stores.setdefault(place, MemoryCache())


class MemoryCache(AnswerStore):
    """A dict. Whoever asks in one process is told by its cache who computes, so every claim is granted here."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._answers: OrderedDict[str, tuple[KeptAnswer, float]] = OrderedDict()

    def get(self, key: str, *, now: float) -> KeptAnswer | None:
        with self._lock:
            answer, expires = self._answers.get(key, (None, now))
            if expires <= now:
                self._answers.pop(key, None)
                return None
            self._answers.move_to_end(key)
            return answer

    def put(self, question: CachedCall, answer: KeptAnswer, *, expires: float) -> None:
        with self._lock:
            self._answers[question.key] = (answer, expires)
            self._answers.move_to_end(question.key)
            while len(self._answers) > self._most:
                self._answers.popitem(last=False)

    def forget(self, key: str) -> None:
        with self._lock:
            self._answers.pop(key, None)

    def claim(self, key: str, token: str, *, now: float, until: float) -> bool:
        return True

    def extend(self, key: str, token: str, *, until: float) -> None:
        return

    def release(self, key: str, token: str) -> None:
        return

    def close(self) -> None:
        return
