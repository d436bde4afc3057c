"""A transaction in the client: what it read and wrote, its limits, its commit and how it is tried again."""

from __future__ import annotations

import random
import struct
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from fdb_fake import codes
from fdb_fake.codes import Refusal
from fdb_fake.database import Database
from fdb_fake.network import Coroutine, Future, done, failed, run
from fdb_fake.options import PERSISTENT, READ_YOUR_WRITES_DISABLE, TIMEOUT, Options
from fdb_fake.overlay import Known, Overlay, Pending, Unreadable
from fdb_fake.reads import Reads, Selector
from fdb_fake.writes import END_OF_ALL, KEY_LIMIT, SYSTEM, Writes

FIRST_BACKOFF = 0.01
FUTURE_VERSION_DELAY = 0.01

# Errors after which the next try waits, and longer each time.
_BACKING_OFF = codes.RETRYABLE - {codes.TRANSACTION_TOO_OLD, codes.FUTURE_VERSION}


class Transaction(Reads, Writes):
    """All of ``fdb_transaction_*``: what fails raises where the library returns a code, else sits in the future."""

    def __init__(self, database: Database, tenant: Any = None) -> None:
        self.database = database
        self.tenant = tenant
        self.lock = threading.RLock()
        self._retry: Future | None = None
        self.reset()

    # The life of a transaction

    def reset(self) -> None:
        with self.lock:
            self._fail_all(codes.TRANSACTION_CANCELLED)
            self._created = time.monotonic()
            self._persistent = dict(self.database.defaults)
            self._tries = 0
            self._backoff = FIRST_BACKOFF
            self._begin()

    def _begin(self) -> None:
        """As new; how often it was tried and its persistent options stay."""
        self.options = Options()
        self.overlay = Overlay()
        self.reading: list[Future] = []
        self.begin_writes()
        self._version: Future | None = None
        self._versionstamp = Future()
        self._committed_version = -1
        self._commits = False
        self._dead = 0
        self.wrong = 0
        self._watches: list[Callable[[int | None], None]] = []
        self._outstanding: weakref.WeakSet[_Held] = weakref.WeakSet()
        for option, value in self._persistent.items():
            self.options.set(option, value)
        self._set_timer()

    def cancel(self) -> None:
        self._die(codes.TRANSACTION_CANCELLED)

    def _die(self, code: int) -> None:
        with self.lock:
            if not self._dead:
                self._dead = code
                self._fail_all(code)

    def _fail_all(self, code: int, spared: Future | None = None) -> None:
        held = list(getattr(self, "_outstanding", ()))
        for watch in getattr(self, "_watches", ()):
            watch(None)
        for one in held:
            if one.future is not spared:
                one.future.set(code=code)

    def _set_timer(self) -> None:
        if self.options.timeout:
            left = self._created + self.options.timeout - time.monotonic()
            itself, outstanding = weakref.ref(self), self._outstanding

            def ring() -> None:
                transaction = itself()
                if transaction is not None and transaction._outstanding is outstanding:
                    transaction._ring()

            self.database.network.later(max(0.0, left), ring)

    def _ring(self) -> None:
        if self.options.timeout and time.monotonic() >= self._created + self.options.timeout - 0.0005:
            self._die(codes.TRANSACTION_TIMED_OUT)

    def check(self) -> None:
        """That something may still be asked of it."""
        self.check_commit()
        if self._dead or self.wrong or self.database.code:
            raise Refusal(self._dead or self.wrong or self.database.code)

    def check_commit(self) -> None:
        if self._commits:
            if self.options.protects_commit:
                self._die(codes.USED_DURING_COMMIT)
            raise Refusal(codes.USED_DURING_COMMIT)

    def held(self, future: Future) -> Future:
        """A future that fails with the transaction."""
        if future.ready:
            return future
        outer = Future(on_cancel=future.cancel)
        one = _Held(outer)
        self._outstanding.add(one)
        future.then(lambda inner: one.future.set(inner.value, inner.code))
        return outer

    def asked(self, start: Callable[[], Future]) -> Future:
        """What a read or a commit starts, or the error that the transaction is spoilt by."""
        with self.lock:
            try:
                self.check()
                return self.held(start())
            except Refusal as refusal:
                return failed(refusal.code)

    # Options

    def set_option(self, option: int, value: bytes | None) -> None:
        """One that cannot be spoils the transaction, as a wrong write does."""
        with self.lock:
            try:
                if option == READ_YOUR_WRITES_DISABLE and (self.reading or self.overlay):
                    raise Refusal(codes.CLIENT_INVALID_OPERATION)
                self.options.set(option, value)
            except Refusal as refusal:
                self.wrong = self.wrong or refusal.code
                return
            if option in PERSISTENT:
                self._persistent.pop(option, None)
                self._persistent[option] = value
            if option == TIMEOUT:
                self._set_timer()

    @property
    def end_of_reads(self) -> bytes:
        return END_OF_ALL if self.options.reads_system_keys else SYSTEM

    # Versions

    def version(self) -> Future:
        if self._version is None:
            self._version = self.database.ask("version")
        return self._version

    def known_version(self) -> int:
        return self._version.value if self._version is not None and self._version.value else 0

    def get_read_version(self) -> Future:
        with self.lock:
            code = self._dead or self.wrong or self.database.code
            return failed(code) if code else self.held(self.version())

    def set_read_version(self, version: int) -> None:
        with self.lock:
            if self._version is not None:
                self.wrong = self.wrong or codes.READ_VERSION_ALREADY_SET
            elif version <= 0:
                self.wrong = self.wrong or codes.VERSION_INVALID
            else:
                self._version = done(version)

    def get_committed_version(self) -> int:
        return self._committed_version

    def get_versionstamp(self) -> Future:
        with self.lock:
            try:
                self.check_commit()
            except Refusal as refusal:
                return failed(refusal.code)
            return self.held(self._versionstamp)

    def get_approximate_size(self) -> Future:
        with self.lock:
            return done(self.size)

    # Reads of one key, and watches; the rest is in Reads

    def get(self, key: bytes, snapshot: bool) -> Future:
        return self.asked(lambda: self._get(key, snapshot))

    def _get(self, key: bytes, snapshot: bool) -> Future:
        if key >= self.end_of_reads:
            raise Refusal(codes.KEY_OUTSIDE_LEGAL_RANGE)
        entry = self.overlay.entry(key) if self.sees_writes(snapshot) else None
        if isinstance(entry, Unreadable) and not self.options.bypass_unreadable:
            raise Refusal(codes.ACCESSED_UNREADABLE)
        if isinstance(entry, Known):
            return done(entry.value)
        if not snapshot:
            self.add_reads(key, key + b"\0")

        def read() -> Coroutine:
            version = yield self.version()
            value = yield self.database.ask("get", key, version)
            return entry.on(value) if isinstance(entry, Pending) else value

        return self.read(read())

    def sees_writes(self, snapshot: bool) -> bool:
        return self.options.reads_see_writes and (not snapshot or self.options.snapshot_sees_writes > 0)

    def read(self, coroutine: Coroutine) -> Future:
        """A read, which a commit waits for."""
        future = run(coroutine)
        if not future.ready:
            self.reading.append(future)
        return future

    def watch(self, key: bytes) -> Future:
        with self.lock:
            try:
                self.check()
                if not self.options.reads_see_writes:
                    raise Refusal(codes.WATCHES_DISABLED)
                if key >= self.end_of_reads:
                    raise Refusal(codes.KEY_OUTSIDE_LEGAL_RANGE)
                if len(key) > KEY_LIMIT:
                    raise Refusal(codes.KEY_TOO_LARGE)
                return self._watch(key)
            except Refusal as refusal:
                return failed(refusal.code)

    def _watch(self, key: bytes) -> Future:
        """Begins with the commit, for the value that the transaction leaves there."""
        self.database.take_watch()
        future = Future()
        future.then(lambda _: self.database.drop_watch())
        known = self._get(key, snapshot=False)
        code = codes.TRANSACTION_CANCELLED

        def begin(committed: int | None) -> None:
            if committed is None:
                future.set(code=self._dead or code)
            elif not future.ready:
                entry = self.overlay.entry(key)
                _wait_for_another(self.database, key, entry, known, future)

        self._watches.append(begin)
        return future

    # Commit

    def commit(self) -> Future:
        with self.lock:
            return self.asked(lambda: run(self._commit()))

    def _commit(self) -> Coroutine:
        self._commits = True
        for future in self.reading:
            if not future.ready:
                settled = Future()
                future.then(lambda _, settled=settled: settled.set())
                yield settled
        if (self.mutations or self.writes) and self.size > self.options.size_limit:
            raise Refusal(codes.TRANSACTION_TOO_LARGE)
        if not self.mutations and not self.writes:
            self._versionstamp.set(code=codes.NO_COMMIT_VERSION)
            self._start_watches(self.known_version())
            return None
        version = yield self.version()
        try:
            committed, batch = yield self.database.ask("commit", version, self.reads, self.writes, self.mutations)
        except Refusal as refusal:
            self._versionstamp.set(code=refusal.code)
            raise
        self._committed_version = committed
        self._versionstamp.set(struct.pack(">QH", committed, batch))
        self._start_watches(committed)
        return None

    def _start_watches(self, version: int) -> None:
        with self.lock:
            if not self._dead:
                watches, self._watches = self._watches, []
                for begin in watches:
                    begin(version)

    def on_error(self, code: int) -> Future:
        with self.lock:
            if self._dead:
                return failed(self._dead)
            spent = self.options.retry_limit != -1 and self._tries >= self.options.retry_limit
            self._tries += 1
            if spent or code not in codes.RETRYABLE:
                self._die(codes.TRANSACTION_CANCELLED)
                return failed(code or codes.CLIENT_INVALID_OPERATION)
            self._retry = None  # where the pause is over at once, there is nothing to spare yet
            self._retry = self.held(run(self._try_again(code)))
            return self._retry

    def _try_again(self, code: int) -> Coroutine:
        pause = Future()
        self.database.network.later(self._pause(code), pause.set)
        yield pause
        with self.lock:
            if not self._dead:
                self._fail_all(codes.TRANSACTION_CANCELLED, spared=self._retry)
                self._begin()

    def _pause(self, code: int) -> float:
        if code not in _BACKING_OFF:
            return min(FUTURE_VERSION_DELAY, self.options.max_retry_delay)
        pause = self._backoff * random.random()
        self._backoff = min(self._backoff * 2, self.options.max_retry_delay)
        return pause

    def get_range(self, begin: Selector, end: Selector, **how: Any) -> Future:
        return self.asked(lambda: self.read(self.rows(begin, end, **how)))

    def get_key(self, selector: Selector, snapshot: bool) -> Future:
        return self.asked(lambda: self.read(self.key(selector, snapshot)))


class _Held:
    """Keeps a future among those that fail with their transaction for as long as somebody waits for it."""

    __slots__ = ("__weakref__", "future")

    def __init__(self, future: Future) -> None:
        self.future = future


def _wait_for_another(database: Database, key: bytes, entry: Any, known: Future, future: Future) -> None:
    """Complete the future once the key has another value than the transaction left there."""

    def ask(value: bytes | None) -> None:
        asked = database.ask("watch", key, value)
        future.on_cancel = asked.cancel
        asked.then(lambda answer: future.set(code=answer.code))

    if isinstance(entry, Known):
        ask(entry.value)
    else:
        known.then(lambda read: future.set(code=read.code) if read.code else ask(read.value))
