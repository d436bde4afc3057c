"""A worker made of two hands: claims runs of a queue, and does with them what a test wants."""

from __future__ import annotations

import itertools
import json

from skunkqueue import codec
from skunkqueue.envelope import Outcome, Want, open_body, peek_head
from skunkqueue.errors import StoreAway
from skunkqueue.ids import new_token
from skunkqueue.routes import HIGH, LOW, address

_numbers = itertools.count()


class Hands:
    """Claims with a fresh token each time; ``late`` seconds after now, so that what is due later can be claimed."""

    def __init__(self, queue, *routes, name=None):
        self.queue = queue
        self.name = name or f"hands-{next(_numbers)}"
        self.routes = routes or ("default",)

    def beat(self):
        about = {"queue": self.queue.name, "routes": list(self.routes), "host": "here", "pid": 1, "pool": "p"}
        self.queue.store.beat(self.name, json.dumps(about), until=self.queue.clock.now() + 60)
        return self

    def orders(self):
        until = self.queue.clock.now() + 60
        return [order.text for order in self.queue.store.beat(self.name, "{}", until=until)]

    def take(self, limit=1000, late=0.0):
        now = self.queue.clock.now() + late
        routes = [address(self.name), *(route + by for route in self.routes for by in (HIGH, "", LOW))]
        want = Want(self.queue.name, tuple(routes), self.name, new_token(), limit)
        return self.queue.store.claim([want], now=now, until=now + 60)

    def commit(self, claim, outcome):
        assert self.queue.store.commit([(claim, outcome)], now=self.queue.clock.now()) == {claim.id}

    def succeed(self, value=None, late=0.0):
        """Take one and give it this value."""
        (claim,) = self.take(1, late)
        self.commit(claim, Outcome.complete(codec.encode_value(value)))
        return claim

    def fail(self, type="ValueError", message="no", traceback="Traceback ..."):
        (claim,) = self.take(1)
        details = codec.encode_value({"type": type, "message": message, "traceback": traceback})
        self.commit(claim, Outcome.failed(f"{type}: {message}", value=details))

    def work(self, **jobs):
        """Execute all there is, finding functions by their jobs' names."""
        for claim in self.take():
            args, kwargs = call_of(claim.envelope)
            name = head_of(claim.envelope).name.rpartition(":")[2].rpartition(".")[2]
            self.commit(claim, Outcome.complete(codec.encode_value(jobs[name].function(*args, **kwargs))))


def head_of(envelope):
    return peek_head(envelope.body)


def body_of(envelope):
    return open_body(envelope.body)


def call_of(envelope):
    args, kwargs = codec.decode_call(body_of(envelope).call)
    return tuple(args), kwargs


class Unreachable:
    """Stands before a store: while ``away`` every verb fails, after doing its work where ``lost`` is the reply."""

    def __init__(self, store):
        self._store = store
        self.away = False
        self.lost = False
        self.calls = []

    def __getattr__(self, name):
        verb = getattr(self._store, name)
        if not callable(verb) or name == "close":
            return verb

        def call(*args, **kwargs):
            self.calls.append(name)
            if self.away:
                raise StoreAway("the store is away")
            result = verb(*args, **kwargs)
            if self.lost:
                raise StoreAway("the reply was lost")
            return result

        return call
