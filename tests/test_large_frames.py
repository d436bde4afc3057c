"""Large payloads between a pool and its workers: each byte is copied a fixed number of times, however many pieces."""

from __future__ import annotations

import ctypes
import errno
import io
import random
import threading
import types

import pytest

from skunkqueue import SkunkQueue
from skunkqueue.worker import WorkerPool, frames
from skunkqueue.worker.child import link

PIECES = 400


class Piece(bytes):
    """Counts the bytes that are copied by adding it to what was there."""

    copied = 0

    def __radd__(self, other):
        Piece.copied += len(other) + len(self)
        return bytes(other) + bytes(self)


def test_a_frame_of_many_pieces_is_joined_once(monkeypatch):
    frame = frames.plain(frames.DONE, 7, bytes(PIECES * 1000))
    splitter, found = frames.Splitter(), []
    monkeypatch.setattr(Piece, "copied", 0)

    for at in range(0, len(frame), 1000):
        returned, starts = splitter.join(Piece(frame[at : at + 1000]))
        found.append((len(returned), starts))

    assert Piece.copied <= 2 * len(frame)
    assert found[-1] == (len(frame), [0])
    assert sum(size for size, _ in found[:-1]) <= 1000


@pytest.mark.parametrize("seed", range(20))
def test_frames_come_whole_however_they_are_cut(seed):
    chance = random.Random(seed)
    sizes = [chance.choice((0, 1, 5, 100, 5000)) for _ in range(60)]
    sent = [(frames.DONE, number, chance.randbytes(size)) for number, size in enumerate(sizes)]
    data = b"".join(frames.plain(*each) for each in sent)
    splitter, received, at = frames.Splitter(), [], 0

    while at < len(data):
        size = chance.choice((1, 3, 8, 9, 10, 200, 6000))
        received += splitter.feed(data[at : at + size])
        at += size

    assert received == sent


class Pipe:
    """Takes a little at each write, and nothing at every third; notes every copy of a frame that it is given."""

    def __init__(self):
        self.written = bytearray()
        self.given = []

    def write(self, fd, data, size):
        self.given.append(data)
        if len(self.given) % 3 == 0:
            ctypes.set_errno(errno.EAGAIN)
            return -1
        some = min(size, 1000)
        self.written += ctypes.string_at(data, some)
        return some


def test_a_frame_that_a_pipe_takes_bit_by_bit_is_not_copied_for_each_bit(monkeypatch):
    pipe = Pipe()
    monkeypatch.setattr(link, "_holding", types.SimpleNamespace(write=pipe.write))
    monkeypatch.setattr(link, "_wait_writable", lambda fd: None)
    worker = link.Link.__new__(link.Link)
    worker._lock, worker._outbox = threading.Lock(), -1
    frame = random.Random(1).randbytes(PIECES * 1000 + 1)

    worker.write(frame)

    assert bytes(pipe.written) == frame
    copies = {id(data): len(data) for data in pipe.given if isinstance(data, bytes) and data is not frame}
    assert sum(copies.values()) == 0


def test_a_large_argument_and_result_arrive(tmp_path):
    with SkunkQueue("large", f"sqlite:///{tmp_path}/large.db", max_payload=64 << 20) as queue:

        @queue.event
        def turned(data):
            return data[::-1]

        data = random.Random(1).randbytes(20 << 20)
        with WorkerPool(queue, log=io.StringIO()):
            assert turned.fire(data).wait(60) == data[::-1]
