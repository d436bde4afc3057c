"""A job as its client sees it: what was asked for, and what the server has said of it since."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple

from skunkqueue.errors import WrongCall
from skunkqueue.gearman.errors import GearmanException, RemoteException, WorkFailed
from skunkqueue.gearman.protocol import MAX_UNIQUE, Packet, PacketType, check_function, request

BY_DATA: Final = "-"
"""The unique key that has a server coalesce jobs of the same function by their data."""

_KINDS: Final = {
    ("normal", False): PacketType.SUBMIT_JOB,
    ("high", False): PacketType.SUBMIT_JOB_HIGH,
    ("low", False): PacketType.SUBMIT_JOB_LOW,
    ("normal", True): PacketType.SUBMIT_JOB_BG,
    ("high", True): PacketType.SUBMIT_JOB_HIGH_BG,
    ("low", True): PacketType.SUBMIT_JOB_LOW_BG,
}
PRIORITIES: Final = ("high", "normal", "low")


class JobStatus(NamedTuple):
    """What a server knows of a job: whether it does, whether it runs, and how far it is.

    ``denominator`` is 0 as long as the worker has said nothing of that.
    """

    known: bool
    running: bool
    numerator: int
    denominator: int


class Update(NamedTuple):
    """What a worker says before the end: ``data`` or ``warning`` with a value, or ``status`` with two numbers."""

    kind: Literal["data", "warning", "status"]
    value: Any


class Submission:
    """One job. It changes only under the lock of the session that it was submitted with.

    ``at`` is when a background job is due, in whole seconds since the epoch. Without ``unique`` it gets a random key,
    so that submitting it again, after a connection broke, meets the job that is there already.

    Raises WrongCall for a name, key or combination that no server takes.
    """

    def __init__(
        self,
        function: str,
        data: bytes,
        *,
        unique: str | None = None,
        priority: str = "normal",
        background: bool = False,
        at: int | None = None,
    ) -> None:
        if priority not in PRIORITIES:
            raise WrongCall(f"priority is 'high', 'normal' or 'low'; got {priority!r}")
        if at is not None and (not background or priority != "normal"):
            raise WrongCall("a job for a certain time is a background job of normal priority")
        self.function: str = check_function(function)
        self.unique: str = os.urandom(16).hex() if unique is None else check_unique(unique)
        self.priority = priority
        self.background = background
        name, key = function.encode(), self.unique.encode()
        when = () if at is None else (b"%d" % at,)
        kind = _KINDS[priority, background] if at is None else PacketType.SUBMIT_JOB_EPOCH
        self.encoded: bytes = request(kind, name, key, *when, data)
        """Its packet."""
        self.key: tuple[bytes, bytes, bytes] = name, key, data if self.unique == BY_DATA else b""
        """What it is coalesced by."""
        self.handle: bytes = b""  # what the server calls it, once it has said so
        self.is_accepted: bool = False
        self.is_done: bool = False  # for a background job: accepted
        self.result: bytes | None = None
        self.error: GearmanException | None = None
        self.updates: list[Update] = []
        self.status: tuple[int, int] = (0, 0)
        self.losses = 0  # of the connection, since it was first sent
        self.listeners: list[Callable[[], None]] = []  # called when anything changes

    # what the server says

    def accept(self, handle: bytes) -> None:
        self.handle = handle
        self.is_accepted = True
        if self.background:
            self.is_done = True
        self._changed()

    def take(self, packet: Packet) -> None:
        """A WORK packet. WORK_EXCEPTION ends the job: gearmand sends nothing behind it, others a WORK_FAIL."""
        kind = packet.type
        if kind is PacketType.WORK_COMPLETE:
            self.result, self.is_done = packet.args[1], True
        elif kind is PacketType.WORK_FAIL:
            self.fail(WorkFailed(f"{self.function} failed; its worker did not say why"))
        elif kind is PacketType.WORK_EXCEPTION:
            self.fail(RemoteException(packet.data.decode("utf-8", "replace")))
        elif kind is PacketType.WORK_STATUS:
            self.status = (number(packet.field("numerator")), number(packet.field("denominator")))
            self.updates.append(Update("status", self.status))
        else:
            self.updates.append(Update("data" if kind is PacketType.WORK_DATA else "warning", packet.data))
        self._changed()

    def fail(self, error: GearmanException) -> None:
        self.error, self.is_done = error, True
        self._changed()

    def goes_beyond(self, seen: int) -> bool:
        """Whether there is more than so many updates, or an end."""
        return self.is_done or len(self.updates) > seen

    def _changed(self) -> None:
        for listener in self.listeners:
            listener()


def check_unique(unique: str) -> str:
    """A unique key as servers take it. Raises WrongCall."""
    is_text = isinstance(unique, str) and unique.isprintable()
    if not is_text or not 0 < len(unique.encode()) <= MAX_UNIQUE:
        raise WrongCall(f"unique is 1 to {MAX_UNIQUE} bytes of text; got {unique!r}")
    return unique


def number(digits: bytes) -> int:
    """What a packet says in digits. Workers in other languages may send fractions, or nothing."""
    try:
        return int(float(digits))
    except (ValueError, OverflowError):
        return 0


class Inquiry:
    """A question to a server and its answer: GET_STATUS, ECHO_REQ, OPTION_REQ."""

    def __init__(self, packet: Packet, answered_by: PacketType) -> None:
        self.encoded: bytes = packet.encode()
        self.answered_by = answered_by
        self.answer: Packet | None = None
        self.error: GearmanException | None = None

    @property
    def is_done(self) -> bool:
        return self.answer is not None or self.error is not None

    def fail(self, error: GearmanException) -> None:
        self.error = error
