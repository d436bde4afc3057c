"""The connection to a FoundationDB: its database, the directory that holds the runs, and transactions on them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from struct import Struct
from typing import Any, Final, Generic, NamedTuple, TypeVar

from skunkqueue.clock import ticks
from skunkqueue.errors import StoreAway, StoreVersion
from skunkqueue.persistence.fdb.client import client, keep_inherited, tenant_of
from skunkqueue.persistence.fdb.errors import NOT_COMMITTED, TOO_OLD, UNKNOWN_RESULT, Gone, speaking
from skunkqueue.persistence.fdb.known import Known
from skunkqueue.persistence.fdb.layout import Space, time_key
from skunkqueue.persistence.fdb.step import Step
from skunkqueue.persistence.fdb.url import Target

SCHEMA: Final = 1
"""The major version of the layout."""

LAYER: Final = b"skunkqueue"
"""Marks our directory for whoever lists those of a cluster."""

NODES: Final = b"\xfe"
SUBDIRECTORIES: Final = 0
"""The directory layer keeps its own records below NODES: of a directory, its subdirectories with their prefixes."""

LONGEST_PAUSE: Final = 100
"""Milliseconds between attempts, at most: two that meet are done with each other in less."""

PATIENT_WITH_OLD: Final = 2
"""How often a transaction may be too old: it has five seconds, and a call not much more."""

RECENT: Final = 1.0
"""Seconds for which a version that was met is good to read as of; a transaction has five, with all that it does."""

_NUMBER: Final = Struct("<Q")

T = TypeVar("T")


class Blind(NamedTuple, Generic[T]):
    """What an attempt does that reads nothing, as of a version."""

    version: int
    work: Callable[[Step], T]


class Link:
    """The database of this process, with the keys of the store. Thread-safe; refuses to work in a forked process."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.transactions: int = 0
        """How many transactions were begun; an attempt counts."""
        self.conflicts: int = 0
        """How many of them met another, and were begun again."""
        self.mark: bytes = b""
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._local = threading.local()
        self._met = (0, 0.0)  # the newest version that a commit here had, and when
        self.known: Known = Known()
        self._db: Any = None
        self._space: Space | None = None

    # opening

    @property
    def database(self) -> Any:
        """The database, or the tenant, that transactions are made on."""
        self.space()
        return self._db

    def space(self, seconds: float | None = None) -> Space:
        """The keys of the store, whose directory is made if there is none. Gives up after ``seconds``."""
        self._after_fork()
        space = self._space
        if space is not None:
            return space
        if not self._lock.acquire(timeout=-1 if seconds is None else seconds):
            raise StoreAway(f"FoundationDB at {self.target.url} cannot be reached: another thread still opens it")
        try:
            with speaking(self.target.url):
                if self._space is None:
                    self._open(seconds)
                assert self._space is not None
                return self._space
        finally:
            self._lock.release()

    def _after_fork(self) -> None:
        """A forked process has no use for what its parent had opened, and nobody there gives back the lock."""
        if self._pid != os.getpid():
            keep_inherited(self._db)
            self._lock = threading.Lock()
            self._met = (0, 0.0)
            self.known = Known()
            self._db = self._space = None
            self._pid = os.getpid()

    def _open(self, seconds: float | None) -> None:
        file = self.target.cluster_file
        if file is not None and not os.path.exists(file):
            raise StoreAway(f"there is no cluster file {file}: copy that of the cluster there")
        fdb = client(self.target.url)
        db = fdb.open(file)
        if self.target.tenant is not None:
            db = tenant_of(fdb, db, self.target.tenant)
        self._db = db
        self.known = Known()  # the file may name another cluster than before
        self._space = self._attempts(self.begin(db, seconds), lambda tr: self._find(fdb, tr))[0]

    def _find(self, fdb: Any, tr: Any) -> Space:
        """Where the store lies. Raises StoreVersion if a newer version of the layout has been here."""
        path = self.target.path
        prefix = fdb.directory.create_or_open(tr, path, layer=LAYER).key()
        nodes = fdb.Subspace(rawPrefix=NODES)
        parent = nodes[fdb.directory.open(tr, path[:-1]).key()] if path[1:] else nodes[NODES]
        space = Space.at(prefix, parent[SUBDIRECTORIES].pack((path[-1],)))
        self.mark = self._check_version(tr, space.mark)
        return space

    def _check_version(self, tr: Any, key: bytes) -> bytes:
        """What marks the store: the version of its layout, and a random number. It is written when the store is new."""
        found = tr[key].value
        if found is None:
            found = tr[key] = b"%d %s" % (SCHEMA, os.urandom(8).hex().encode())
        version = bytes(found).partition(b" ")[0]
        if version.isdigit() and int(version) > SCHEMA:
            raise StoreVersion(
                f"the runs in FoundationDB at {self.target.url} were written by version {int(version)} of the layout; "
                f"this is version {SCHEMA}: install a newer SkunkQueue here"
            )
        return bytes(found)

    def close(self) -> None:
        """Forget the database. The client's network thread stays, as it cannot be started twice."""
        self._after_fork()
        with self._lock:
            self._db = self._space = None

    # transactions

    def begin(self, db: Any = None, seconds: float | None = None) -> Any:
        """A transaction that gives up when the time of a call is over."""
        tr = (db or self.database).create_transaction()
        tr.options.set_timeout(max(1, int(1000 * (seconds or self.target.timeout))))
        return tr

    def run(
        self,
        work: Callable[[Step], T],
        *,
        now: float = 0.0,
        receipt: bool = False,
        met: Callable[[Step], None] = lambda step: None,
        seconds: float | None = None,
        then: Callable[[Any], None] = lambda tr: None,
        recent: bool = False,
        first: Blind[T] | None = None,
    ) -> T:
        """Do one transaction, again where it met another one; ``met`` is then called with the attempt.

        It gives up after ``seconds``; ``then`` is called with the transaction that was committed.
        With ``receipt``, a commit whose result is unknown is looked up, so that what it did is not done twice.
        With ``recent``, it reads as of the last commit here, which saves a trip for a version of its own. That is for
        work that has a conflict for all it reads: so nothing has changed since where it commits, and where it has
        nothing to commit, it is done again with a new version.
        ``first`` is what the first attempt does in place of ``work``.
        Raises what ``translated`` makes of the client's errors, and Gone.
        """
        with speaking(self.target.url):
            space = self.space()
            step: Step | None = None
            number, key = self._receipt(space, now) if receipt else (b"", b"")

            def attempt(tr: Any) -> T:
                nonlocal step, first
                step = Step(tr, space, now)
                if first is not None:
                    blind, first = first, None
                    return self._attempt_blind(step, blind)
                entry = tr[space.entry]
                result = work(step)
                step.flush()
                if receipt:
                    tr[key] = number
                self._check(entry.value, space)
                return result

            def conflicted() -> None:
                if step is not None:
                    met(step)

            tr = self.begin(None, seconds)
            is_old = recent and first is None and self._as_of_last_commit(tr)
            result, tr = self._attempts(tr, attempt, conflicted, key, number)
            if not self._note_commit(tr, step) and is_old:
                result, tr = self._attempts(self.begin(None, seconds), attempt, conflicted, key, number)
            then(tr)
            return result

    def _attempt_blind(self, step: Step, blind: Blind[T]) -> T:
        """The directory was in its place as of that version, or the store would know nothing of it."""
        step.tr.set_read_version(blind.version)
        step.tr.add_read_conflict_key(step.space.entry)
        result = blind.work(step)
        step.flush()
        return result

    def _as_of_last_commit(self, tr: Any) -> bool:
        """Have a transaction read as of the last commit of this process, if that is not long ago."""
        version, at = self._met
        if ticks() - at > RECENT:
            return False
        tr.set_read_version(version)
        return True

    def _note_commit(self, tr: Any, step: Step | None) -> bool:
        """Whether a transaction wrote something. Remembers its version, and what was so as of it."""
        version: int = tr.get_committed_version()
        if version > self._met[0]:
            self._met = (version, ticks())
        if version > 0 and step is not None and step.widths:
            self.known.learn(step.widths, version)
        return version > 0

    def _attempts(
        self,
        tr: Any,
        work: Callable[[Any], T],
        conflicted: Callable[[], None] = lambda: None,
        key: bytes = b"",
        number: bytes = b"",
    ) -> tuple[T, Any]:
        """The result of a committed attempt, and its transaction.

        Raises the client's error for one that is too old again and again: so it is too much for one transaction.
        """
        old = 0
        while True:
            self.transactions += 1
            done = False
            try:
                result = work(tr)
                done = True
                tr.commit().wait()
                return result, tr
            except Exception as error:
                code = getattr(error, "code", None)
                if not isinstance(code, int):
                    raise
                old += code == TOO_OLD
                if old >= PATIENT_WITH_OLD:
                    raise
                if code == NOT_COMMITTED:
                    self.conflicts += 1
                    conflicted()
                tr.options.set_max_retry_delay(LONGEST_PAUSE)
                tr.on_error(error).wait()
                if done and key and code == UNKNOWN_RESULT and self._was_committed(tr, key, number):
                    return result, tr

    def _was_committed(self, tr: Any, key: bytes, number: bytes) -> bool:
        """Whether the attempt before, whose result is unknown, was committed. It no longer can be once this answers."""
        while True:
            try:
                return bool(tr[key].value == number)
            except Exception as error:
                if not isinstance(getattr(error, "code", None), int):
                    raise
                tr.on_error(error).wait()

    def _receipt(self, space: Space, now: float) -> tuple[bytes, bytes]:
        """What a transaction of this thread leaves to say that it was committed, and where."""
        local = self._local.__dict__
        if local.get("pid") != os.getpid():  # a name that no other thread has, nor one of a process forked from this
            local.update(pid=os.getpid(), number=0, key=os.urandom(12))
        local["number"] += 1
        return _NUMBER.pack(local["number"]) + time_key(now), space.prefix + b"q" + local["key"]

    def forget(self, step: Step) -> None:
        """Delete what this thread's last transaction left to say that it was committed."""
        key = self._local.__dict__.get("key")
        if key is not None:
            step.tr.clear(step.space.prefix + b"q" + key)

    def _check(self, entry: Any, space: Space) -> None:
        """Raise Gone if the directory's own record no longer says our prefix. It is read in every transaction."""
        if entry != space.prefix:
            raise Gone(
                f"the directory {self.target.directory} of FoundationDB at {self.target.url} was moved or removed "
                "while this process used it: move it back, or start this process again"
            )
