"""A store that misbehaves on command, and a pool of real workers on it in this process."""

from __future__ import annotations

import io
import threading
import time

from skunkqueue.clock import Clock
from skunkqueue.persistence import Persister, Source
from skunkqueue.worker.pool.log import Log
from skunkqueue.worker.pool.pool import Pool, pool_name
from skunkqueue.worker.pool.settings import Settings

VERBS = frozenset(name for kind in (Source, Persister) for name in vars(kind) if not name.startswith("_")) - {
    "close",
    "url",
    "is_far",
    "limits",
    "await_end",
}


class Troubled(Persister):
    """Passes every verb on to another store; ``before(verb, *arguments)`` and ``after`` may sleep or raise first."""

    def __init__(self, inner):
        self.inner = inner
        self.url = inner.url
        self.before = self.after = lambda verb, *arguments: None
        self.calls = []
        self.lock = threading.Lock()

    def __getattribute__(self, name):
        if name not in VERBS:
            return super().__getattribute__(name)
        inner = getattr(self.inner, name)

        def verb(*arguments, **more):
            with self.lock:
                self.calls.append(name)
            self.before(name, *arguments)
            found = inner(*arguments, **more)
            self.after(name, *arguments)
            return found

        return verb

    def close(self):
        self.inner.close()

    def count_of(self, verb):
        with self.lock:
            return self.calls.count(verb)


class Said(io.StringIO):
    """What a pool in this process says."""

    def said(self, text, limit=30.0):
        end = time.monotonic() + limit
        while text not in self.getvalue():
            assert time.monotonic() < end, f"the log did not say {text!r}: {self.getvalue()[-3000:]}"
            time.sleep(0.01)


def make_pool(source, *routes, queue="demo", **options):
    """A pool on any source, with its log as ``pool.log``."""
    log = Said()
    settings = Settings(name=pool_name(), queue=queue, routes=routes or ("foo",), url=source.url, **options)
    pool = Pool(source, Clock(source.offset), settings, Log(log))
    pool.log = log
    return pool
