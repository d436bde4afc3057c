"""What kinds of packets there are, who may send them, and what they carry."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntEnum
from types import MappingProxyType
from typing import Final, NamedTuple


class Magic(Enum):
    """Who a packet comes from: requests go to a server, responses come from one."""

    REQUEST = b"\0REQ"
    RESPONSE = b"\0RES"


class PacketType(IntEnum):
    """What a packet says. 5 has never been used."""

    __hash__ = int.__hash__  # that of an enumeration is slow, and each packet is looked up by its type

    CAN_DO = 1
    CANT_DO = 2
    RESET_ABILITIES = 3
    PRE_SLEEP = 4
    NOOP = 6
    SUBMIT_JOB = 7
    JOB_CREATED = 8
    GRAB_JOB = 9
    NO_JOB = 10
    JOB_ASSIGN = 11
    WORK_STATUS = 12
    WORK_COMPLETE = 13
    WORK_FAIL = 14
    GET_STATUS = 15
    ECHO_REQ = 16
    ECHO_RES = 17
    SUBMIT_JOB_BG = 18
    ERROR = 19
    STATUS_RES = 20
    SUBMIT_JOB_HIGH = 21
    SET_CLIENT_ID = 22
    CAN_DO_TIMEOUT = 23
    ALL_YOURS = 24
    WORK_EXCEPTION = 25
    OPTION_REQ = 26
    OPTION_RES = 27
    WORK_DATA = 28
    WORK_WARNING = 29
    GRAB_JOB_UNIQ = 30
    JOB_ASSIGN_UNIQ = 31
    SUBMIT_JOB_HIGH_BG = 32
    SUBMIT_JOB_LOW = 33
    SUBMIT_JOB_LOW_BG = 34
    SUBMIT_JOB_SCHED = 35
    SUBMIT_JOB_EPOCH = 36
    SUBMIT_REDUCE_JOB = 37
    SUBMIT_REDUCE_JOB_BACKGROUND = 38
    GRAB_JOB_ALL = 39
    JOB_ASSIGN_ALL = 40
    GET_STATUS_UNIQUE = 41
    STATUS_RES_UNIQUE = 42


class Layout(NamedTuple):
    """The arguments of a type by name, whether the last is opaque data, and who may send it."""

    fields: tuple[str, ...]
    opaque: bool
    magics: frozenset[Magic]


def _layouts() -> Mapping[PacketType, Layout]:
    request, response = frozenset({Magic.REQUEST}), frozenset({Magic.RESPONSE})
    either = request | response
    kind = PacketType
    submit = ("function", "unique", "data")
    reduce = ("function", "unique", "reducer", "aggregate", "data")
    sched = ("function", "unique", "minute", "hour", "day", "month", "weekday", "data")
    status = ("known", "running", "numerator", "denominator")
    rows: dict[PacketType, tuple[tuple[str, ...], frozenset[Magic]]] = {
        kind.CAN_DO: (("function",), request),
        kind.CANT_DO: (("function",), request),
        kind.RESET_ABILITIES: ((), request),
        kind.PRE_SLEEP: ((), request),
        kind.NOOP: ((), response),
        kind.SUBMIT_JOB: (submit, request),
        kind.JOB_CREATED: (("handle",), response),
        kind.GRAB_JOB: ((), request),
        kind.NO_JOB: ((), response),
        kind.JOB_ASSIGN: (("handle", "function", "data"), response),
        kind.WORK_STATUS: (("handle", "numerator", "denominator"), either),
        kind.WORK_COMPLETE: (("handle", "data"), either),
        kind.WORK_FAIL: (("handle",), either),
        kind.GET_STATUS: (("handle",), request),
        kind.ECHO_REQ: (("data",), request),
        kind.ECHO_RES: (("data",), response),
        kind.SUBMIT_JOB_BG: (submit, request),
        kind.ERROR: (("code", "text"), response),
        kind.STATUS_RES: (("handle", *status), response),
        kind.SUBMIT_JOB_HIGH: (submit, request),
        kind.SET_CLIENT_ID: (("client_id",), request),
        kind.CAN_DO_TIMEOUT: (("function", "timeout"), request),
        kind.ALL_YOURS: ((), request),
        kind.WORK_EXCEPTION: (("handle", "data"), either),
        kind.OPTION_REQ: (("option",), request),
        kind.OPTION_RES: (("option",), response),
        kind.WORK_DATA: (("handle", "data"), either),
        kind.WORK_WARNING: (("handle", "data"), either),
        kind.GRAB_JOB_UNIQ: ((), request),
        kind.JOB_ASSIGN_UNIQ: (("handle", "function", "unique", "data"), response),
        kind.SUBMIT_JOB_HIGH_BG: (submit, request),
        kind.SUBMIT_JOB_LOW: (submit, request),
        kind.SUBMIT_JOB_LOW_BG: (submit, request),
        kind.SUBMIT_JOB_SCHED: (sched, request),
        kind.SUBMIT_JOB_EPOCH: (("function", "unique", "epoch", "data"), request),
        kind.SUBMIT_REDUCE_JOB: (reduce, request),
        kind.SUBMIT_REDUCE_JOB_BACKGROUND: (reduce, request),
        kind.GRAB_JOB_ALL: ((), request),
        kind.JOB_ASSIGN_ALL: (("handle", "function", "unique", "reducer", "data"), response),
        kind.GET_STATUS_UNIQUE: (("unique",), request),
        kind.STATUS_RES_UNIQUE: (("unique", *status, "waiting"), response),
    }
    opaque = {"data"}
    return MappingProxyType({t: Layout(f, bool(f) and f[-1] in opaque, magics) for t, (f, magics) in rows.items()})


LAYOUTS: Final = _layouts()
"""What each type of packet carries."""
