"""Limited jobs for the checkers: each leaves a mark in a file of its thread when it starts and when it ends."""

import os
import struct
import threading
import time

from skunkqueue import Limit, SkunkQueue

queue = SkunkQueue("demo")
MARK = struct.Struct("<idi")
"""The number of a key, the time by the clock of all processes, and 1 for a start or -1 for an end."""
_files = {}


def mark(key, what):
    me = os.getpid(), threading.get_ident()
    file = _files.get(me)
    if file is None:
        path = os.path.join(os.environ["MARKS"], f"marks-{os.getpid()}-{time.monotonic_ns()}")
        file = _files[me] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, MARK.pack(key, time.monotonic(), what))


def work(key, seconds):
    mark(key, 1)
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 0.005))
    mark(key, -1)
    return key


def by_key(key, *_):
    return key


@queue.event(routes=["foo"], limit=Limit(1, key=by_key))
def one(key, seconds):
    return work(key, seconds)


@queue.event(routes=["foo"], limit=Limit(3, key=by_key), retries=50, backoff=0.05)
def three(key, seconds):
    work(key, seconds)
    if os.urandom(1)[0] < 40:
        raise ValueError("not this time")
    return key


@queue.event(routes=["foo"], limit=Limit(60, key=by_key, per=3))
def rate(key, seconds):
    return work(key, seconds)


@queue.event(routes=["foo"], fair_by=by_key)
def fair(key, seconds):
    return work(key, seconds)


@queue.event(routes=["foo"])
def plain(key, seconds):
    return work(key, seconds)
