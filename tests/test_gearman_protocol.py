"""Gearman's packets as bytes: decoded as encoded, split anywhere; what is wrong is an error of its own class."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skunkqueue.errors import WrongCall
from skunkqueue.gearman.errors import LyingHeader, MalformedPacket, PacketTooLarge, ProtocolError, ServerRefused
from skunkqueue.gearman.protocol import LAYOUTS, MAX_FIELD, Decoder, Line, Magic, Packet, PacketType
from skunkqueue.gearman.text import (
    Command,
    FunctionPriorities,
    FunctionStatus,
    JobInfo,
    WorkerInfo,
    ok,
    parse_answer,
    parse_command,
    refuse,
    table,
)

REQUESTS = [(type, row) for type, row in LAYOUTS.items() if Magic.REQUEST in row.magics]
RESPONSES = [(type, row) for type, row in LAYOUTS.items() if Magic.RESPONSE in row.magics]

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""The machine may be busy with other tests."""

names = st.binary(max_size=20).map(lambda data: data.replace(b"\0", b"-"))


@st.composite
def packets(draw: st.DrawFn, magic: Magic) -> Packet:
    type, row = draw(st.sampled_from(REQUESTS if magic is Magic.REQUEST else RESPONSES))
    args = [draw(names) for _ in row.fields]
    if row.opaque:
        args[-1] = draw(st.binary(max_size=200))
    return (Packet.request if magic is Magic.REQUEST else Packet.response)(type, *args)


lines = st.text(st.characters(exclude_characters="\0\r\n", codec="utf-8"), min_size=1, max_size=40).map(Line)
magics = st.sampled_from(Magic)
streams = magics.flatmap(
    lambda magic: st.tuples(st.just(magic), st.lists(st.one_of(packets(magic), lines), max_size=6))
)


def encoded(items: list[Packet | Line]) -> bytes:
    return b"".join(item.encode() for item in items)


@unhurried
@given(streams)
def test_what_was_encoded_is_decoded(stream: tuple[Magic, list[Packet | Line]]) -> None:
    magic, items = stream

    decoder = Decoder(magic)

    assert decoder.feed(encoded(items)) == items
    assert decoder.pending == 0


@unhurried
@given(streams)
def test_one_byte_at_a_time_is_enough(stream: tuple[Magic, list[Packet | Line]]) -> None:
    magic, items = stream
    decoder = Decoder(magic)

    found = [item for byte in encoded(items) for item in decoder.feed(bytes([byte]))]

    assert found == items


@unhurried
@given(streams)
def test_a_split_at_any_byte_changes_nothing(stream: tuple[Magic, list[Packet | Line]]) -> None:
    magic, items = stream
    data = encoded(items)

    for at in range(len(data) + 1):
        decoder = Decoder(magic)
        assert decoder.feed(data[:at]) + decoder.feed(data[at:]) == items


@unhurried
@given(streams, st.randoms(use_true_random=False))
def test_any_reads_give_the_same(stream: tuple[Magic, list[Packet | Line]], chance: random.Random) -> None:
    magic, items = stream
    data = encoded(items)
    decoder = Decoder(magic)

    found: list[Packet | Line] = []
    while data:
        size = chance.randint(1, 30)
        found += decoder.feed(data[:size])
        data = data[size:]

    assert found == items


@pytest.mark.parametrize("type", LAYOUTS, ids=lambda kind: kind.name)
def test_every_type_has_its_arguments_by_name(type: PacketType) -> None:
    row = LAYOUTS[type]
    args = [name.encode() for name in row.fields]

    for magic in row.magics:
        (found,) = Decoder(magic).feed(
            (Packet.request if magic is Magic.REQUEST else Packet.response)(type, *args).encode()
        )

        assert isinstance(found, Packet)
        assert {name: found.field(name) for name in row.fields} == {name: name.encode() for name in row.fields}


def test_the_bytes_are_those_of_the_document() -> None:
    submit = Packet.request(PacketType.SUBMIT_JOB, "reverse", "", "test")
    assigned = Packet.response(PacketType.JOB_ASSIGN, "H:lap:1", "reverse", "test")

    assert submit.encode() == bytes.fromhex("00524551 00000007 0000000d 72657665727365 00 00 74657374")
    assert assigned.encode() == bytes.fromhex("00524553 0000000b 00000014 483a6c61703a31 00 72657665727365 00 74657374")


def test_opaque_data_may_hold_nuls() -> None:
    packet = Packet.request(PacketType.WORK_COMPLETE, "H:1", b"a\0b\0")

    assert Decoder(Magic.REQUEST).feed(packet.encode()) == [packet]


def test_a_nul_behind_the_last_name_is_forgiven() -> None:
    data = Packet.request(PacketType.WORK_FAIL, "H:1").encode()
    with_nul = data[:8] + struct.pack("!I", 4) + b"H:1\0"

    (packet,) = Decoder(Magic.REQUEST).feed(with_nul)

    assert packet == Packet.request(PacketType.WORK_FAIL, "H:1")


def header(magic: bytes, type: int, size: int) -> bytes:
    return magic + struct.pack("!II", type, size)


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (header(b"\0REX", 1, 1), LyingHeader, "begins with"),
        (b"\0REX", LyingHeader, "begins with"),
        (b"\0\0", LyingHeader, "begins with"),
        (header(b"\0REQ", 5, 0), LyingHeader, "no type 5"),
        (header(b"\0REQ", 99, 0), LyingHeader, "no type 99"),
        (header(b"\0REQ", 2**32 - 1, 0), LyingHeader, "no type 4294967295"),
        (header(b"\0REQ", PacketType.NOOP, 0), LyingHeader, "NOOP is never a request"),
        (header(b"\0RES", PacketType.NOOP, 0), LyingHeader, "expected a request"),
        (header(b"\0REQ", PacketType.PRE_SLEEP, 1), LyingHeader, "no arguments"),
        (header(b"\0REQ", PacketType.SUBMIT_JOB, 1), LyingHeader, "says that it has 1 bytes"),
        (header(b"\0REQ", PacketType.GET_STATUS, MAX_FIELD + 2), LyingHeader, "says that it has"),
        (header(b"\0REQ", PacketType.SUBMIT_JOB, 1001), PacketTooLarge, "limit is 1000"),
        (header(b"\0REQ", PacketType.SUBMIT_JOB, 2**32 - 1), PacketTooLarge, "limit is 1000"),
        (header(b"\0REQ", PacketType.SUBMIT_JOB, 4) + b"a\0bc", MalformedPacket, "function, unique, data"),
        (header(b"\0REQ", PacketType.CAN_DO, 3) + b"a\0b", MalformedPacket, "2 arguments"),
        (header(b"\0REQ", PacketType.CAN_DO, 2) + b"\0\0", MalformedPacket, "3 arguments"),
        (b"x" * 8192, PacketTooLarge, "line of text"),
    ],
)
def test_a_wrong_packet_is_an_error_of_its_class(data: bytes, error: type[ProtocolError], words: str) -> None:
    good = Packet.request(PacketType.ECHO_REQ, "hello")
    decoder = Decoder(Magic.REQUEST, max_packet=1000)

    with pytest.raises(error, match=words) as raised:
        decoder.feed(good.encode() + data)
    assert raised.value.before == (good,)
    with pytest.raises(error):
        decoder.feed(good.encode())


def test_a_large_name_is_refused() -> None:
    body = b"f" * (MAX_FIELD + 1) + b"\0\0"
    data = header(b"\0REQ", PacketType.SUBMIT_JOB, len(body)) + body

    with pytest.raises(MalformedPacket, match="may have 65536 bytes"):
        Decoder(Magic.REQUEST).feed(data)


def test_a_lie_about_the_size_keeps_nothing() -> None:
    decoder = Decoder(Magic.REQUEST, max_packet=1000)

    with pytest.raises(PacketTooLarge):
        decoder.feed(header(b"\0REQ", PacketType.ECHO_REQ, 1 << 30) + b"x" * 5000)

    assert decoder.pending == 0


@unhurried
@given(st.lists(st.binary(max_size=300), max_size=20), magics)
def test_noise_is_decoded_or_refused_and_never_kept_beyond_the_limit(reads: list[bytes], magic: Magic) -> None:
    decoder = Decoder(magic, max_packet=500, max_line=100)
    for read in reads:
        try:
            decoder.feed(read)
        except ProtocolError:
            break
        assert decoder.pending < 12 + 500


@unhurried
@given(streams, st.data())
def test_a_damaged_stream_is_decoded_or_refused(stream: tuple[Magic, list[Packet | Line]], data: st.DataObject) -> None:
    magic, items = stream
    bytes_ = bytearray(encoded(items) or b"\n")
    for _ in range(data.draw(st.integers(1, 4))):
        bytes_[data.draw(st.integers(0, len(bytes_) - 1))] = data.draw(st.integers(0, 255))
    decoder = Decoder(magic, max_packet=1000)

    try:
        found = decoder.feed(bytes(bytes_))
    except ProtocolError as error:
        found = list(error.before)

    for item in found:
        again = Decoder(magic).feed(item.encode())
        assert again == [item]


@pytest.mark.parametrize(
    ("type", "args", "words"),
    [
        (PacketType.SUBMIT_JOB, ("f", "u"), "takes function, unique, data; got 2"),
        (PacketType.PRE_SLEEP, ("x",), "takes no arguments; got 1"),
        (PacketType.CAN_DO, ("a\0b",), "function of CAN_DO must not contain a NUL"),
        (PacketType.CAN_DO, ("a" * (MAX_FIELD + 1),), "may have 65536 bytes"),
        (PacketType.NO_JOB, (), "never a request"),
    ],
)
def test_a_wrong_call_gets_a_sentence(type: PacketType, args: tuple[str, ...], words: str) -> None:
    with pytest.raises(WrongCall, match=words):
        Packet.request(type, *args)


def test_a_field_that_is_not_there_is_told() -> None:
    with pytest.raises(KeyError, match="PRE_SLEEP has no arguments, not handle"):
        _ = Packet.request(PacketType.PRE_SLEEP).handle


# -- the admin protocol ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("status", Command("status")),
        ("STATUS ", Command("status")),
        ("show unique jobs", Command("show unique jobs")),
        ("show jobs", Command("show jobs")),
        ("maxqueue f 1 2 3", Command("maxqueue", ("f", "1", "2", "3"))),
        ("shutdown", Command("shutdown")),
        ("shutdown graceful", Command("shutdown graceful")),
        ("cancel job H:x:1", Command("cancel job", ("H:x:1",))),
        ("cancel", None),
        ("", None),
        ("bogus 1", None),
    ],
)
def test_commands_are_read(text: str, command: Command | None) -> None:
    assert parse_command(Line(text)) == command


def test_a_command_with_a_space_in_an_argument_is_a_wrong_call() -> None:
    assert Command("maxqueue", ("f", "3")).encode() == b"maxqueue f 3\n"
    with pytest.raises(WrongCall, match="one word"):
        Command("maxqueue", ("f\nshutdown",)).encode()


@pytest.mark.parametrize(
    "row",
    [
        FunctionStatus("f", 3, 1, 2),
        FunctionPriorities("f", 1, 2, 3, 4),
        WorkerInfo(34, "127.0.0.1", "name-1@host", ("f", "g")),
        WorkerInfo(34, "::1", "-", ()),
        JobInfo("H:vm:1", 0, 1, 0),
    ],
    ids=lambda row: type(row).__name__,
)
def test_rows_are_written_and_read_alike(row: FunctionStatus | FunctionPriorities | WorkerInfo | JobInfo) -> None:
    decoder = Decoder(Magic.RESPONSE)

    line, end = decoder.feed(table([row]))

    assert isinstance(line, Line)
    assert end == Line(".")
    assert type(row).parse(line) == row


def test_gearmands_own_rows_are_read() -> None:
    assert WorkerInfo.parse(Line("38 127.0.0.1 - :")) == WorkerInfo(38, "127.0.0.1", "-", ())
    assert FunctionStatus.parse(Line("f\t1\t0\t2")) == FunctionStatus("f", 1, 0, 2)
    with pytest.raises(MalformedPacket, match="numbers"):
        FunctionStatus.parse(Line("f\t1\tx\t2"))
    with pytest.raises(MalformedPacket, match="4 columns"):
        FunctionStatus.parse(Line("f"))
    with pytest.raises(MalformedPacket, match="FD ADDRESS"):
        WorkerInfo.parse(Line("f"))


def test_answers_of_one_line_are_read() -> None:
    assert parse_answer(ok("1.1.20")) == "1.1.20"
    assert parse_answer(ok()) == ""
    assert parse_answer(Line("1.130.1")) == "1.130.1"
    with pytest.raises(ServerRefused, match="UNKNOWN_COMMAND: Unknown server command"):
        parse_answer(refuse("UNKNOWN_COMMAND", "Unknown server command"))
    with pytest.raises(ServerRefused, match="UNKNOWN_JOB"):
        parse_answer(Line("ERR UNKNOWN_JOB"))
