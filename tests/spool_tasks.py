"""Processors for the tests of the spool folder: they leave marks, and some behave badly."""

from __future__ import annotations

import ctypes
import os
import time


def mark(name, text="x"):
    """Append a line to a file of that name, whole even where several processes do."""
    fd = os.open(os.path.join(os.environ["MARKS"], str(name)), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.write(fd, f"{text}\n".encode())
    os.close(fd)


def note(data):
    mark(data["name"], os.getpid())
    time.sleep(data.get("pause", 0))


def slow(data):
    mark(data["name"])
    time.sleep(data.get("seconds", 60))
    mark(data["name"] + ".end")


def hang(data):
    mark(data["name"])
    if data.get("hard"):
        ctypes.PyDLL(None).sleep(60)  # holds the interpreter
    time.sleep(60)


def fail(data):
    mark(data["name"])
    raise ValueError("no such rcpt")


def crash(data):
    mark(data["name"])
    os.kill(os.getpid(), 11)


async def later(data):
    mark(data["name"])


class Download:
    made = 0

    def __init__(self):
        type(self).made += 1
        self.runs = 0

    def run(self, data):
        self.runs += 1
        mark(data["name"], f"{self.runs} {data['url']}")


processors = {
    "note": note, "slow": slow, "hang": hang, "fail": fail, "crash": crash, "later": later, "download": Download
}  # fmt: skip
