"""All exceptions of the Gearman part, as one tree under SkunkError.

::

    SkunkError
    +-- GearmanException                what a caller of a client catches
        +-- ProtocolError               a peer sent bytes that are not Gearman's; its connection has to end
        |   +-- LyingHeader             a header that cannot be true: magic, type, direction, or size for that type
        |   |   +-- PacketTooLarge      a size, or a line, beyond the limit
        |   +-- MalformedPacket         a true header, but the arguments in the body are not those of its type
        +-- ServerUnavailable           no server could be reached, or the connection was lost; the call may have worked
        +-- ServerRefused               a server answered with an ERROR packet, or an admin command with ERR
        +-- JobUnfinished (TimeoutError)    the job was not done within the time given
        +-- WorkFailed                  the job ended without a value
        |   +-- RemoteException         ... and its worker said why
        +-- UnreadableAnswer            the job's answer could not be decoded
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from skunkqueue.errors import SkunkError


class GearmanException(SkunkError):
    """The root of all errors that talking Gearman can raise, but for wrong calls, which are WrongCall."""


class ProtocolError(GearmanException):
    """A peer sent bytes that are not Gearman's. ``before`` are the packets and lines decoded ahead of them."""

    before: Sequence[Any] = ()


class LyingHeader(ProtocolError):
    """A header that cannot be true: no magic, an unknown type, the wrong direction, or a size its type cannot have."""


class PacketTooLarge(LyingHeader):
    """A packet's header, or a line, beyond the limit of the decoder. Its body was not read."""


class MalformedPacket(ProtocolError):
    """The arguments in a packet's body are not those of its type."""


class ServerUnavailable(GearmanException):
    """No server could be reached, or the connection was lost on the way; what was sent may have been done."""


class ServerRefused(GearmanException):
    """A server answered that it will not. ``code`` is its word, for instance ``JOB_NOT_FOUND``; ``text`` its reason."""

    def __init__(self, code: str, text: str = "") -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text

    def __str__(self) -> str:
        return f"the server answered {self.code}: {self.text}" if self.text else f"the server answered {self.code}"


class JobUnfinished(GearmanException, TimeoutError):
    """The job was not done within the time given. It goes on; asking again is allowed."""


class WorkFailed(GearmanException):
    """The job ended without a value: its worker sent WORK_FAIL."""


class RemoteException(WorkFailed):
    """The job's worker sent WORK_EXCEPTION. ``text`` is what it said, which is also the message."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class UnreadableAnswer(GearmanException):
    """A job's answer, or a part of it, that its data encoder could not decode. ``data`` are the bytes."""

    def __init__(self, message: str, data: bytes = b"") -> None:
        super().__init__(message, data)
        self.data = data

    def __str__(self) -> str:
        return str(self.args[0])
