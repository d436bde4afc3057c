"""Errors of pymongo as ours. No message has a secret in it: the driver's own name hosts and commands only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from bson.errors import BSONError
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    ConnectionFailure,
    DocumentTooLarge,
    DuplicateKeyError,
    InvalidOperation,
    OperationFailure,
    PyMongoError,
    WTimeoutError,
)

from skunkqueue.errors import StoreAway, StoreError, StoreFull, StoreRefused, WrongCall, WrongStore
from skunkqueue.persistence.refused import worth_showing
from skunkqueue.persistence.url import without_secrets_in

LONGEST: Final = 300

DUPLICATE: Final = 11000
"""The code of an error that says that an id, or a unique key, is there already."""

# The codes are those of MongoDB's error_codes.yml.
_RIGHTS: Final = frozenset({13, 18, 31, 33, 8000})
_AWAY: Final = frozenset(
    {6, 7, 50, 64, 79, 89, 91, 100, 112, 133, 134, 189, 202, 234, 262, 317, 318, 358, 384, 394}
    | {9001, 10058, 10107, 11600, 11602, 13388, 13435, 13436, 14497}
)
_FULL: Final = frozenset({12501, 14031})
_TOO_LARGE: Final = frozenset({10334, 17280, 17419, 17420, 16493})
_INTERNAL: Final = frozenset({0, 1, 8, 96})
"""What a gateway to another database says for all that it cannot put in a code of MongoDB's."""
_PACKED_SQLSTATE: Final = 1 << 24
"""From here on codes are no longer MongoDB's: FerretDB 2 passes on PostgreSQL's SQLSTATE, five characters of six bits,
the first one lowest (``MAKE_SQLSTATE`` in elog.h). One that ends in 0 is smaller, and cannot be told from MongoDB's."""

_FULL_WORDS: Final = (
    "no space left", "disk full", "could not extend file", "disk quota", "read-only file system",
    "in a read-only transaction",
)  # fmt: skip
_AWAY_WORDS: Final = (
    "connection refused", "connection reset", "broken pipe", "terminating connection", "failed to connect",
    "server closed", "unexpected eof", "the database system is", "closed pool", "conn closed", "conn busy",
    "use of closed network connection", "no such file or directory", "deadlock detected", "could not serialize",
    "too many clients", "connection slots are reserved", "i/o timeout", "context deadline exceeded", "context canceled",
    "canceling statement due to", "out of shared memory", "no route to host", "too many open files",
)  # fmt: skip
"""What a gateway to another database says when it cannot reach that."""


_CONFLICT_WORDS: Final = ("deadlock detected", "could not serialize", "write conflict")

CONFLICT: Final = 112

_OTHER_PROTOCOL: Final = ("Got response id", "Message length", "Got opcode", "Unknown opcode")
"""What pymongo says of an answer that is none of MongoDB's protocol."""


@contextmanager
def speaking_within_transaction(url: str) -> Iterator[None]:
    """As ``speaking``; but errors after which the whole transaction is to be repeated rise as they are, since the
    driver's ``with_transaction`` knows them by their label."""
    try:
        with speaking(url):
            yield
    except StoreError as error:
        cause = error.__cause__ or error.__context__  # the latter where it is not worth showing
        if isinstance(cause, PyMongoError) and cause.has_error_label("TransientTransactionError"):
            raise cause from None
        raise


@contextmanager
def speaking(url: str) -> Iterator[None]:
    """Turn errors of pymongo into ours."""
    try:
        yield
    except (PyMongoError, BSONError, OSError, OverflowError, UnicodeError) as error:
        raise translated(url, error) from worth_showing(error)


def translated(url: str, error: Exception) -> StoreError | WrongCall:
    """An error of pymongo, or of writing BSON, as one of ours."""
    if isinstance(error, BulkWriteError):
        return _of_bulk(url, error)
    if isinstance(error, WTimeoutError):
        return StoreAway(f"MongoDB at {url} has not confirmed a write in time: {words(error)}")
    if isinstance(error, DuplicateKeyError):
        return StoreRefused(f"MongoDB at {url} has such a document already: {words(error)}")
    if isinstance(error, OperationFailure):
        return of_code(url, error.code or 0, words(error))
    if isinstance(error, ConfigurationError):
        return StoreError(f"MongoDB at {url} cannot be used: {words(error)}")
    if isinstance(error, ConnectionFailure) and any(word in str(error) for word in _OTHER_PROTOCOL):
        return WrongStore(f"what answers at {url} is no MongoDB: {words(error)}; see to host and port")
    if isinstance(error, ConnectionFailure | OSError):
        return StoreAway(f"MongoDB at {url} cannot be reached: {words(error)}")
    if isinstance(error, DocumentTooLarge):
        return StoreRefused(f"it is too large for a document of MongoDB: {words(error)}")
    if isinstance(error, InvalidOperation) and "after close" in str(error):
        return StoreAway(f"the connection to MongoDB at {url} was closed meanwhile")
    if isinstance(error, PyMongoError):
        return StoreError(f"MongoDB at {url} could not do it: {words(error)}")
    return StoreRefused(f"it cannot be written as a document of MongoDB: {words(error)}")


def of_code(url: str, code: int, text: str) -> StoreError:
    """An error of the server, by its code; where it is none of MongoDB's, by its words."""
    lower = text.lower()
    if code in _RIGHTS:
        return StoreError(f"MongoDB at {url} does not let us in: {text}; check user, password and roles")
    if code in _FULL or any(word in lower for word in _FULL_WORDS):
        return StoreFull(f"MongoDB at {url} takes no writes: {text}")
    if code in _TOO_LARGE:
        return StoreRefused(f"it is too large for a document of MongoDB: {text}")
    if code in _AWAY or (_is_internal(code) and any(word in lower for word in _AWAY_WORDS)):
        return StoreAway(f"MongoDB at {url} cannot answer now: {text}")
    return StoreError(f"MongoDB at {url} refused a command: {text}")


def is_internal(error: StoreError) -> bool:
    """Whether a gateway says that something went wrong that neither it nor we have a name for."""
    cause = error.__cause__
    if isinstance(cause, BulkWriteError):
        codes = [each.get("code", 0) for each in (cause.details or {}).get("writeErrors", ())]
    else:
        codes = [cause.code or 0] if isinstance(cause, OperationFailure) else []
    return type(error) is StoreError and any(_is_internal(code) for code in codes)


def _is_internal(code: int) -> bool:
    return code in _INTERNAL or code >= _PACKED_SQLSTATE


def _of_bulk(url: str, error: BulkWriteError) -> StoreError:
    """The first thing that went wrong in a batch."""
    details = error.details or {}
    if details.get("writeErrors"):
        first = details["writeErrors"][0]
        return of_code(url, first.get("code", 0), short(first.get("errmsg", "")))
    for concern in details.get("writeConcernErrors", ()):
        return StoreAway(f"MongoDB at {url} has not confirmed a write: {short(concern.get('errmsg', ''))}")
    return StoreError(f"MongoDB at {url} refused a batch: {words(error)}")


def is_conflict(error: PyMongoError) -> bool:
    """Whether two writes met, and this one was undone for it: then it is to be repeated."""
    if isinstance(error, BulkWriteError):
        errors = (error.details or {}).get("writeErrors", ())
        texts = [(each.get("code", 0), each.get("errmsg", "")) for each in errors]
    elif isinstance(error, OperationFailure):
        texts = [(error.code or 0, str(error))]
    else:
        texts = []
    return any(code == CONFLICT or any(word in text.lower() for word in _CONFLICT_WORDS) for code, text in texts)


def is_duplicate(error: OperationFailure) -> bool:
    """Whether a unique index cannot be made, as two documents have what it is over. FerretDB has no code for it."""
    return error.code == DUPLICATE or "could not create exclusion constraint" in str(error)


def words(error: Exception) -> str:
    """What an error says, in short: without the documents it quotes."""
    text = str(error).partition(", full error:")[0].partition("(configured timeouts:")[0].partition(", Timeout:")[0]
    return short(text) or type(error).__name__


def short(text: str) -> str:
    return without_secrets_in(text.strip())[:LONGEST]
