"""Many runs of our job put into a store as fast as it takes them: a backlog, or work for much later."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

from bench.trial import Trial
from skunkqueue.envelope import Envelope, Outcome, Want
from skunkqueue.ids import new_id
from skunkqueue.persistence.url import get_backend

CHUNK = 500


def body(trial: Trial, url: str) -> bytes:
    """What our job's runs carry: taken from one that is fired and claimed at once."""
    code = f"import {trial.queue.app} as app; app.fire(123456); app.end()"
    subprocess.run([sys.executable, "-c", code], env=trial.env, check=True)
    store = get_backend(url)
    now = time.time() + 60
    claims = store.claim([Want("bench", ("work",), "bench", "0" * 24, 1)], now=now, until=now + 15)
    store.commit([(claims[0], Outcome.complete(b""))], now=now)
    store.close()
    return claims[0].envelope.body


def fill(url: str, count: int, payload: bytes, due: float) -> None:
    """Put runs that are due then."""
    store: Any = get_backend(url)
    for first in range(0, count, CHUNK):
        now = time.time()
        store.put([Envelope(new_id(now), "bench", "work", due, payload) for _ in range(min(CHUNK, count - first))])
    store.close()
