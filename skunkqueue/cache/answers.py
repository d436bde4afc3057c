"""The cache: gives a fresh answer again, has a missing one computed once, and does without a store that is away."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Final, TypeVar

from skunkqueue.cache.key import CachedCall
from skunkqueue.cache.stores import AnswerStore, KeptAnswer, Place
from skunkqueue.codec import decode_value, encode_value
from skunkqueue.errors import PayloadError, SkunkError, StoreAway

log: logging.Logger = logging.getLogger("skunkqueue.cache")

Washer = Callable[[Any], Any]
"""Gets a new answer, returns the one to keep and to give."""

LEASE: Final = 15.0
"""Seconds after which others compute what a process that died was computing; while it lives, it says so."""

LOOK: Final = (0.005, 0.1)
"""Seconds between looks for an answer that another process computes: at first, and at most."""

PAUSE: Final = 5.0
"""Seconds for which a store that is away is left alone."""

_inherited: list[AnswerStore | None] = []

T = TypeVar("T")


class Cache:
    """Answers at one place. Opened at the first question; each process has a connection of its own."""

    def __init__(
        self, place: Place, *, washer: Washer | None = None, keep_stale: float = 0.0, debug: bool = False
    ) -> None:
        self._place = place.check()
        self._washer = washer
        self._keep_stale = keep_stale
        self._debug = debug
        self._start_anew()

    def _start_anew(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._store: AnswerStore | None = None
        self._flights: dict[str, _Flight] = {}
        self._away_until = 0.0
        self._is_away = False

    def answer(self, question: CachedCall, max_age: float, compute: Callable[[], Any]) -> Any:
        """The kept answer, if it is at most ``max_age`` seconds old; else what ``compute`` gives, or raises."""
        if self._pid != os.getpid():
            _inherited.append(self._store)  # it is the parent's: not even to be closed here
            self._start_anew()
        found, value = self._fresh(question, max_age)
        if found:
            return value
        with self._lock:
            flight = self._flights.get(question.key)
            if flight is None:
                mine = self._flights[question.key] = _Flight()
        if flight is None:
            try:
                return mine.run(lambda: self._compute_once(question, max_age, compute))
            finally:
                with self._lock:
                    del self._flights[question.key]
        if flight.thread == threading.get_ident():
            return compute()  # it calls itself with the same arguments: to wait would be for ever
        return flight.landed()

    def forget(self, question: CachedCall) -> None:
        """Keep this answer no longer."""
        self._ask(lambda store: store.forget(question.key), None)

    # one answer

    def _fresh(self, question: CachedCall, max_age: float) -> tuple[bool, Any]:
        """Whether there is an answer that is fresh, and its value."""
        kept = self._kept(question)
        if kept is None or time.time() - kept.made > max_age:
            return False, None
        return self._decoded(question, kept)

    def _kept(self, question: CachedCall) -> KeptAnswer | None:
        return self._ask(lambda store: store.get(question.key, now=time.time()), None)

    def _decoded(self, question: CachedCall, kept: KeptAnswer) -> tuple[bool, Any]:
        try:
            value = decode_value(kept.value)
        except SkunkError as error:
            log.warning("the kept answer of %s(%s) cannot be read: %s", question.name, question.arguments, error)
            return False, None
        self._tell("found", question)
        return True, value

    def _compute_once(self, question: CachedCall, max_age: float, compute: Callable[[], Any]) -> Any:
        """Compute an answer, unless another process does so: then wait for it."""
        token, pause = os.urandom(8).hex(), LOOK[0]
        while not self._claim(question, token):
            time.sleep(pause)
            pause = min(2 * pause, LOOK[1])
            found, value = self._fresh(question, max_age)
            if found:
                return value
        try:
            found, value = self._fresh(question, max_age)  # another process may have kept it just now
            return value if found else self._compute(question, token, compute, max_age)
        finally:
            self._ask(lambda store: store.release(question.key, token), None)

    def _claim(self, question: CachedCall, token: str) -> bool:
        now = time.time()
        return self._ask(lambda store: store.claim(question.key, token, now=now, until=now + LEASE), True)

    def _compute(self, question: CachedCall, token: str, compute: Callable[[], Any], max_age: float) -> Any:
        self._tell("computing", question)
        with _Renewal(
            lambda: self._ask(lambda store: store.extend(question.key, token, until=time.time() + LEASE), None)
        ):
            value = compute()
        if value is not None and self._washer is not None:
            value = self._washer(value)
        if value is not None:
            self._keep(question, value, max_age)
            return value
        kept = self._kept(question)
        found, stale = (False, None) if kept is None else self._decoded(question, kept)
        if found:
            self._tell("stale answer given for", question)
        return stale

    def _keep(self, question: CachedCall, value: Any, max_age: float) -> None:
        try:
            encoded = encode_value(value)
        except PayloadError as error:
            log.warning("an answer of %s cannot be kept: %s", question.name, error)
            return
        now = time.time()
        expires = now + max_age + self._keep_stale
        self._ask(lambda store: store.put(question, KeptAnswer(encoded, now), expires=expires), None)

    # the store

    def _ask(self, verb: Callable[[AnswerStore], T], instead: T) -> T:
        """What the store says; ``instead`` where it is away."""
        if time.monotonic() < self._away_until:
            return instead
        store = self._opened()
        try:
            said = verb(store)
        except StoreAway as error:
            self._away_until = time.monotonic() + PAUSE
            if not self._is_away:
                log.warning("the cache at %s is away, so answers are computed without it: %s", self._place.shown, error)
            self._is_away = True
            return instead
        except SkunkError as error:
            log.warning("the cache at %s could not do this: %s", self._place.shown, error)
            return instead
        if self._is_away:
            self._is_away = False
            log.warning("the cache at %s is back", self._place.shown)
        return said

    def _opened(self) -> AnswerStore:
        with self._lock:
            if self._store is None:
                self._store = self._place.open()
                weakref.finalize(self, _close, self._store, self._pid)
            return self._store

    def _tell(self, what: str, question: CachedCall) -> None:
        log.debug("%s %s(%s)", what, question.name, question.arguments)
        if self._debug:
            sys.stderr.write(f"cache: {what} {question.name}({question.arguments})\n")


def _close(store: AnswerStore, pid: int) -> None:
    """Close it with its cache, in the process that opened it."""
    if pid == os.getpid():
        store.close()
    else:
        _inherited.append(store)


class _Flight:
    """An answer that one thread computes and others of this process wait for."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self._landed = threading.Event()
        self._value: Any = None
        self._error: BaseException | None = None

    def run(self, compute: Callable[[], Any]) -> Any:
        try:
            self._value = compute()
        except BaseException as error:
            self._error = error
            raise
        finally:
            self._landed.set()
        return self._value

    def landed(self) -> Any:
        """What came of it, once it is there."""
        self._landed.wait()
        if self._error is not None:
            raise self._error
        return self._value


class _Renewal:
    """Calls ``renew`` now and then, on a thread of its own, within its ``with``."""

    def __init__(self, renew: Callable[[], Any]) -> None:
        self._renew = renew
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._is_over = False

    def __enter__(self) -> None:
        self._schedule()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._is_over = True
            if self._timer is not None:
                self._timer.cancel()

    def _schedule(self) -> None:
        with self._lock:
            if not self._is_over:
                self._timer = threading.Timer(LEASE / 3, self._turn)
                self._timer.daemon = True
                self._timer.start()

    def _turn(self) -> None:
        self._renew()
        self._schedule()
