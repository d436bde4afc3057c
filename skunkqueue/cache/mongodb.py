"""Answers in a collection of MongoDB: a document for each answer and for each claim; both expire there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

from bson.errors import BSONError
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.errors import (
    ConfigurationError,
    DocumentTooLarge,
    DuplicateKeyError,
    InvalidName,
    InvalidURI,
    OperationFailure,
    PyMongoError,
)

from skunkqueue.cache.key import CachedCall
from skunkqueue.cache.stores import AnswerStore, KeptAnswer, Place
from skunkqueue.errors import StoreAway, StoreRefused, WrongCall
from skunkqueue.persistence.url import without_secrets, without_secrets_in

TIMEOUT: Final = 5000
"""Milliseconds until a server that does not answer is away."""

Document = dict[str, Any]


def open_place(place: Place) -> AnswerStore:
    """The collection of the database at a mongodb:// or mongodb+srv:// URL."""
    try:
        client: MongoClient[Document] = MongoClient(
            place.url, appname="skunkqueue", serverSelectionTimeoutMS=TIMEOUT, connectTimeoutMS=TIMEOUT,
            socketTimeoutMS=TIMEOUT, tz_aware=True, connect=False,
        )  # fmt: skip
        return MongoCache(client, client[place.dbname][place.collection])
    except (InvalidURI, ConfigurationError, InvalidName, ValueError) as error:
        words = without_secrets_in(str(error)) if "@" not in place.url else type(error).__name__
        raise WrongCall(f"{without_secrets(place.url)} is no URL of a MongoDB: {words}") from error


class MongoCache(AnswerStore):
    """A collection, whose index on ``expires`` has the server delete what has expired."""

    def __init__(self, client: MongoClient[Document], collection: Collection[Document]) -> None:
        self._client = client
        self._collection = collection
        self._has_index = False

    def get(self, key: str, *, now: float) -> KeptAnswer | None:
        with _speaking():
            found = self._collection.find_one({"_id": key, "expires": {"$gt": _date(now)}}, {"value": 1, "made": 1})
        if found is None or not isinstance(found.get("value"), bytes) or not isinstance(found.get("made"), float):
            return None
        return KeptAnswer(found["value"], found["made"])

    def put(self, question: CachedCall, answer: KeptAnswer, *, expires: float) -> None:
        document = {
            "_id": question.key, "name": question.name, "arguments": question.arguments, "value": answer.value,
            "made": float(answer.made), "expires": _date(expires),
        }  # fmt: skip
        with _speaking():
            self._make_index()
            self._collection.replace_one({"_id": question.key}, document, upsert=True)

    def forget(self, key: str) -> None:
        with _speaking():
            self._collection.delete_one({"_id": key})

    def claim(self, key: str, token: str, *, now: float, until: float) -> bool:
        mine = {"_id": _claim(key), "$or": [{"expires": {"$lte": _date(now)}}, {"token": token}]}
        with _speaking():
            try:
                self._collection.update_one(mine, {"$set": {"token": token, "expires": _date(until)}}, upsert=True)
            except DuplicateKeyError:  # somebody else's is there, and stands
                return False
        return True

    def extend(self, key: str, token: str, *, until: float) -> None:
        with _speaking():
            self._collection.update_one({"_id": _claim(key), "token": token}, {"$set": {"expires": _date(until)}})

    def release(self, key: str, token: str) -> None:
        with _speaking():
            self._collection.delete_one({"_id": _claim(key), "token": token})

    def close(self) -> None:
        self._client.close()

    def _make_index(self) -> None:
        if not self._has_index:
            self._collection.create_index("expires", expireAfterSeconds=0)
            self._has_index = True


def _claim(key: str) -> str:
    return f"{key}:claim"


def _date(seconds: float) -> datetime:
    return datetime.fromtimestamp(min(seconds, 253_402_214_400), UTC)


@contextmanager
def _speaking() -> Iterator[None]:
    """Turn the driver's errors into ours."""
    try:
        yield
    except (DocumentTooLarge, BSONError, OverflowError) as error:
        raise StoreRefused(f"MongoDB does not take this: {error}") from error
    except OperationFailure as error:
        raise StoreRefused(f"MongoDB refuses: {without_secrets_in(str(error))[:300]}") from error
    except PyMongoError as error:
        raise StoreAway(without_secrets_in(str(error))[:300]) from error
