"""The connection to a MongoDB: pymongo's client, one for each process, and what it is set to."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from bson.codec_options import CodecOptions
from pymongo import MongoClient, ReadPreference, WriteConcern
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import AutoReconnect, NetworkTimeout, OperationFailure, PyMongoError, ServerSelectionTimeoutError

from skunkqueue.errors import StoreAway, StoreError, StoreVersion
from skunkqueue.persistence.mongodb.documents import Document
from skunkqueue.persistence.mongodb.errors import is_conflict, is_duplicate, speaking
from skunkqueue.persistence.mongodb.url import Target

SCHEMA: Final = 1
"""The major version of the layout; stored in the collection STORE."""

RUNS: Final = "runs"
WORKERS: Final = "workers"
STORE: Final = "store"

RIPE: Final = "ripe"
RIPE_ORDER: Final = [("shelf", 1), ("ripe", 1), ("_id", 1)]
PARTIAL: Final[Mapping[str, Mapping[str, Any]]] = {"held": {}, "key": {"unique": True}, "expiring": {}}
"""The indexes over what only some runs have, by field."""

DEFAULTS: Final[Mapping[str, Any]] = {
    "appname": "skunkqueue",
    "serverselectiontimeoutms": 5000,
    "connecttimeoutms": 5000,
    "sockettimeoutms": 15000,
}
"""What the client is given where the URL says nothing of it."""

ATTEMPTS: Final = 10
"""How often indexes are made where other processes make them at the same time."""

T = TypeVar("T")


class Link:
    """The client of this process, with the collections of the store. A forked process makes its own."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._lock = threading.Lock()
        self._client: MongoClient[Document] | None = None
        self._db: Database[Document] | None = None
        self._pid = os.getpid()
        self.is_closed: bool = False
        self._here = threading.local()

    @property
    def client(self) -> MongoClient[Document]:
        self.database()
        assert self._client is not None
        return self._client

    @property
    def runs(self) -> Collection[Document]:
        return self.database()[RUNS]

    @property
    def workers(self) -> Collection[Document]:
        return self.database()[WORKERS]

    @contextmanager
    def unless_closed(self) -> Iterator[None]:
        """What this thread does within does not open again what was closed: that raises StoreAway.

        For waits, which may be under way, or just about to begin, when the store is closed.
        """
        before = getattr(self._here, "may_open", True)
        self._here.may_open = False
        try:
            yield
        finally:
            self._here.may_open = before

    def database(self) -> Database[Document]:
        """The database, with its indexes made and its version checked. Opened, if it is not open."""
        if self._db is not None and self._pid == os.getpid():
            return self._db
        with self._lock:
            if self._pid != os.getpid():
                self._after_fork()
            if self._db is None:
                if self.is_closed and not getattr(self._here, "may_open", True):
                    raise StoreAway(f"the connection to MongoDB at {self.target.url} was closed")
                with speaking(self.target.url):
                    self._db = self._open()
                self.is_closed = False
            return self._db

    def _open(self) -> Database[Document]:
        if self._client is None:
            self._client = self._connect()
        db = self._client.get_database(
            self.target.dbname,
            codec_options=CodecOptions(document_class=dict, unicode_decode_error_handler="replace"),
            read_preference=ReadPreference.PRIMARY,
            write_concern=self._write_concern(),
        )
        check(db, self.target.url)
        return db

    def _connect(self) -> MongoClient[Document]:
        options = {name: value for name, value in DEFAULTS.items() if name not in self.target.options}
        return MongoClient(self.target.secret, **options)

    def _write_concern(self) -> WriteConcern:
        """Majority and journal, unless the URL says something else."""
        said = self.target.options
        if said & {"w", "journal", "j"}:
            assert self._client is not None
            return self._client.write_concern
        return WriteConcern("majority", j=True)

    def _after_fork(self) -> None:
        """The parent's connections stay the parent's, and are not even collected here."""
        _inherited.append((self._client, self._db))
        self._client = self._db = None
        self.is_closed = False
        self._pid = os.getpid()

    def close(self) -> None:
        with self._lock:
            if self._pid != os.getpid():
                self._after_fork()
            client, self._client, self._db, self.is_closed = self._client, None, None, True
        if client is not None:
            client.close()

    def answers(self) -> bool:
        """Whether the server answers a simple question about runs."""
        try:
            self.runs.find_one({"_id": ""}, {"_id": 1})
        except (PyMongoError, StoreError):
            return False
        return True

    def hello(self) -> Document:
        """What the server says of itself. Older ones know the question by its old name only."""
        db = self.database()
        try:
            return db.command("hello")
        except OperationFailure as error:
            if error.code != NO_SUCH_COMMAND:
                raise
            return db.command("isMaster")


NO_SUCH_COMMAND: Final = 59

_inherited: list[Any] = []


def check(db: Database[Document], url: str) -> None:
    """Make the indexes where there are none, also after the database was dropped while it was used, and note the
    version of the layout. Raises StoreVersion if a newer one is there.
    """
    found = db[STORE].find_one({"_id": "schema"})
    if found is None:
        found = {"version": SCHEMA}
        if despite_conflicts(lambda: make_indexes(db)):
            db[STORE].update_one({"_id": "schema"}, {"$setOnInsert": found}, upsert=True)
    version = found.get("version")
    if isinstance(version, int) and version > SCHEMA:
        raise StoreVersion(
            f"the runs in MongoDB at {url} were written by version {version} of the layout; this is version {SCHEMA}: "
            "install a newer SkunkQueue here"
        )


def make_indexes(db: Database[Document]) -> bool:
    """Make the indexes: over what only some runs have, of those runs only. Returns whether all of them could be made:
    not while two runs hold one unique key, which they could where there was no index.

    A server that does not know partial indexes may say nothing, and leave the condition out: that gets sparse ones.
    Where both are known, partial ones are better: FerretDB takes three times as long to write a sparse one.
    """
    runs = db[RUNS]
    runs.create_index(RIPE_ORDER, name=RIPE)
    there = runs.index_information()
    missing = {field: options for field, options in PARTIAL.items() if field not in there}
    is_known = bool(missing) and _knows_partial(db[f"probe-{os.urandom(4).hex()}"])
    for field, options in missing.items():
        where: Mapping[str, Any] = (
            {"partialFilterExpression": {field: {"$exists": True}}} if is_known else {"sparse": True}
        )
        try:
            runs.create_index(field, name=field, **where, **options)
        except OperationFailure as error:
            if not is_duplicate(error):
                raise
            return False
    return True


def despite_conflicts(call: Callable[[], T]) -> T:
    """Call; again where it met another process that does the same, for what a repetition does not harm."""
    for attempt in range(1, ATTEMPTS):
        try:
            return call()
        except OperationFailure as error:
            if not is_conflict(error):
                raise
        time.sleep(random.uniform(0.0, 0.1) * attempt)  # noqa: S311 - not a secret
    return call()


def _knows_partial(probe: Collection[Document]) -> bool:
    """Whether a partial index leaves out those documents that do not meet its condition."""
    try:
        probe.create_index("key", unique=True, partialFilterExpression={"key": {"$exists": True}})
        probe.insert_many([{"_id": 1}, {"_id": 2}])
    except OperationFailure:
        return False
    finally:
        probe.drop()
    return True


def again_if_cut(call: Callable[[], T]) -> T:
    """Call; once more where the connection broke or the server is no longer the primary, for what a repetition does
    not harm. The driver repeats by itself, but only single writes, and only where the server has sessions."""
    try:
        return call()
    except StoreAway as error:
        if not _was_cut(error):
            raise
    return call()


def _was_cut(error: StoreAway) -> bool:
    """Whether the connection broke. A timeout does not count: a server that hangs is not asked twice."""
    cause = error.__cause__
    return isinstance(cause, AutoReconnect) and not isinstance(cause, NetworkTimeout | ServerSelectionTimeoutError)


def patiently(call: Callable[[], T], seconds: float) -> T:
    """Call; again for so long as the server is away."""
    end = time.monotonic() + seconds
    pause = 0.02
    while True:
        try:
            return call()
        except StoreAway:
            if time.monotonic() + pause >= end:
                raise
        time.sleep(pause)
        pause *= 2
