"""The packets that a server sends, as bytes. Their arguments came in packets, or are made here, so none is checked."""

from __future__ import annotations

from typing import Final

from skunkqueue.gearman.protocol import PacketType, response

reply: Final = response
"""A packet of a type, with its arguments."""


def number(value: int) -> bytes:
    """A number as an argument."""
    return b"%d" % value


def error(code: str, text: str) -> bytes:
    """An ERROR packet."""
    return reply(PacketType.ERROR, code.encode(), text.replace("\0", " ").encode("utf-8", "replace"))


NOOP: Final = reply(PacketType.NOOP)
NO_JOB: Final = reply(PacketType.NO_JOB)
JOB_NOT_FOUND: Final = error("JOB_NOT_FOUND", "Job given in work result not found")
