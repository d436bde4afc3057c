"""Jobs that count how many of them go on at once, for pools with workers in this process, which share ``here``."""

from __future__ import annotations

import threading
import time
from collections import Counter


class Going:
    """What went on, by key: now and at most, in which order, how often it was tried."""

    def __init__(self):
        self.lock = threading.Lock()
        self.now, self.most, self.tries = Counter(), Counter(), Counter()
        self.order, self.starts = [], []
        self.release = threading.Event()


here = Going()


def work(key, seconds=0.01, of=None):
    counted = key if of is None else of
    with here.lock:
        here.order.append(key)
        here.now[counted] += 1
        here.most[counted] = max(here.most[counted], here.now[counted])
    time.sleep(seconds)
    with here.lock:
        here.now[counted] -= 1
    return key


def hold(key):
    """Goes on until it is released; where it is the first, until it is interrupted."""
    while key == "first" or not here.release.is_set():
        time.sleep(0.01)
    return key


def flaky(key):
    """Fails twice."""
    work("all")
    here.tries[key] += 1
    if here.tries[key] < 3:
        raise ValueError("not yet")
    return key


def bad_at_first(key):
    here.tries[key] += 1
    if key == "bad" and here.tries[key] < 2:
        raise ValueError("not yet")
    return key


def call():
    here.starts.append(time.monotonic())


def same(key):
    return key


def fail_once(key, seconds):
    """Fails once, when it has taken so long."""
    here.starts.append(time.monotonic())
    here.tries[key] += 1
    if here.tries[key] < 2:
        time.sleep(seconds)
        raise ValueError("not yet")
    return key
