"""Answers in Redis: a hash for each, a key for each claim; both expire there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import redis

from skunkqueue.cache.key import CachedCall
from skunkqueue.cache.stores import AnswerStore, KeptAnswer, Place
from skunkqueue.errors import StoreAway, StoreRefused, WrongCall
from skunkqueue.persistence.url import without_secrets, without_secrets_in

TIMEOUT: Final = 5.0
"""Seconds until a server that does not answer is away."""

_EXTEND: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIREAT', KEYS[1], ARGV[2]) end return 0
"""
_RELEASE: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0
"""


def open_place(place: Place) -> AnswerStore:
    """One server, at redis://, rediss:// or unix://. Keys begin with the database's and the collection's names."""
    try:
        client = redis.Redis.from_url(place.url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT)
    except ValueError as error:
        raise WrongCall(
            f"{without_secrets(place.url)} is no URL of a Redis: {without_secrets_in(str(error))}"
        ) from error
    return RedisCache(client, f"{place.dbname}:{place.collection}:")


class RedisCache(AnswerStore):
    """A client of one server."""

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self._client: Any = client
        self._prefix = prefix

    def get(self, key: str, *, now: float) -> KeptAnswer | None:
        with _speaking():
            value, made = self._client.hmget(self._prefix + key, "value", "made")
        return None if value is None or made is None else KeptAnswer(value, float(made))

    def put(self, question: CachedCall, answer: KeptAnswer, *, expires: float) -> None:
        name = self._prefix + question.key
        fields = {"name": question.name, "arguments": question.arguments, "value": answer.value, "made": answer.made}
        with _speaking(), self._client.pipeline() as pipeline:
            pipeline.hset(name, mapping=fields)
            pipeline.pexpireat(name, int(expires * 1000))
            pipeline.execute()

    def forget(self, key: str) -> None:
        with _speaking():
            self._client.delete(self._prefix + key)

    def claim(self, key: str, token: str, *, now: float, until: float) -> bool:
        with _speaking():
            name = self._claim(key)
            taken = self._client.set(name, token, nx=True, px=max(1, int((until - now) * 1000)))
            return bool(taken) or self._client.get(name) == token.encode()

    def extend(self, key: str, token: str, *, until: float) -> None:
        with _speaking():
            self._client.eval(_EXTEND, 1, self._claim(key), token, int(until * 1000))

    def release(self, key: str, token: str) -> None:
        with _speaking():
            self._client.eval(_RELEASE, 1, self._claim(key), token)

    def close(self) -> None:
        self._client.close()

    def _claim(self, key: str) -> str:
        return f"{self._prefix}{key}:claim"


@contextmanager
def _speaking() -> Iterator[None]:
    """Turn the driver's errors into ours."""
    try:
        yield
    except redis.DataError as error:
        raise StoreRefused(f"Redis does not take this: {error}") from error
    except (redis.RedisError, OSError) as error:
        raise StoreAway(without_secrets_in(str(error))) from error
