"""What a job file may hold: read whoever wrote it, and nothing of a stranger's executed."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import uuid
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal

import msgpack
import pytest

from skunkqueue.spool.contents import parse
from skunkqueue.spool.files import Unfinished, Unreadable

PLAIN = {
    "type": "x",
    "scalars": [1, 2.5, None, True, -3, 2**70, "", "žlu\u0165", "long" * 300],
    "bytes": [b"", b"abc\xff", b"z" * 70000],
    "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
    "sets": [set(), {1, 2}, frozenset([1])],
    "times": [
        datetime(2024, 1, 2, 3, 4, 5, 6),
        datetime(2024, 1, 2, tzinfo=timezone(timedelta(hours=2))),
        date(2020, 1, 1),
        time(1, 2),
        timedelta(3, 4, 5),
    ],
    "numbers": [Decimal("1.50"), uuid.UUID(int=5)],
    7: {"nested": {"x": {"y": [[], {}]}}},
}


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_of_any_protocol_comes_back_as_it_went(protocol):
    assert parse(pickle.dumps(PLAIN, protocol)) == ("x", PLAIN)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_cut_anywhere_is_unfinished(protocol):
    data = pickle.dumps({**PLAIN, "bytes": b"z" * 300}, protocol)

    for end in range(len(data)):
        with pytest.raises(Unfinished):
            parse(data[:end])


PYTHON_2 = {
    0: b"(dp1\nS'type'\np2\nS'email'\np3\nsS'body'\np4\nS'caf\\xe9'\np5\nsS'n'\np6\nL12L\nsS'u'\np7\nV\\u017e\np8\ns.",
    1: b"}q\x01(U\x04typeq\x02U\x05emailq\x03U\x04bodyq\x04U\x04caf\xe9q\x05U\x01nq\x06K\x0cU\x01uq\x07"
    b"X\x02\x00\x00\x00\xc5\xbeq\x08u.",
    2: b"\x80\x02}q\x01(U\x04typeq\x02U\x05emailq\x03U\x04bodyq\x04U\x04caf\xe9q\x05U\x01nq\x06K\x0cU\x01uq\x07"
    b"X\x02\x00\x00\x00\xc5\xbeq\x08u.",
}


@pytest.mark.parametrize("protocol", PYTHON_2)
def test_what_python_2_pickled_is_read(protocol):
    assert parse(PYTHON_2[protocol]).data == {"type": "email", "body": "café", "n": 12, "u": "ž"}


def test_utf_8_of_python_2_is_read_as_such_and_its_datetimes_too():
    name = b"(dp1\nS'type'\np2\nS'x'\nsS'name'\nS'\\xc5\\xbe'\ns."
    state = b"U\x0a\x07\xe8\x01\x02\x03\x04\x05\x00\x00\x06"
    when = b"\x80\x02}q\x01(U\x04typeU\x01xU\x04whencdatetime\ndatetime\n" + state + b"\x85Ru."

    assert parse(name).data["name"] == "ž"
    assert parse(when).data["when"] == datetime(2024, 1, 2, 3, 4, 5, 6)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32-be"])
def test_json_is_told_by_its_content(encoding):
    assert parse('  {"type": "é", "n": [1]}'.encode(encoding)) == ("é", {"type": "é", "n": [1]})


def test_messagepack_is_told_by_its_content():
    small = {"type": "x", "when": datetime(2024, 1, 2, tzinfo=UTC), 3: b"\xff"}
    large = {"type": "x", **{f"key {n}": n for n in range(100)}}

    assert parse(msgpack.packb(small, datetime=True)).data == small
    assert parse(msgpack.packb(large)).data == large
    with pytest.raises(Unfinished):
        parse(msgpack.packb(large)[:-1])


class Evil:
    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "call", [(os.system, "touch {}"), (open, "{}", "w"), (eval, "open('{}', 'w')"), (os.mkdir, "{}")]
)
def test_a_pickle_that_would_run_code_is_refused_and_runs_none(call, protocol, tmp_path):
    function, *args = call
    evil = Evil(function, *[arg.format(tmp_path / "ran") for arg in args])

    with pytest.raises(Unreadable, match="refused: it mentions"):
        parse(pickle.dumps({"type": "x", "evil": evil}, protocol))
    assert not (tmp_path / "ran").exists()


HOSTILE = {
    "global by dotted name": b"\x80\x04\x8c\x08datetime\x8c\x14datetime.utcfromtimest\x93.",
    "another class": b"ccollections\nOrderedDict\n.",
    "inst": b"(ios\nsystem\n.",
    "extension registry": b"\x80\x02\x82\x01.",
    "persistent id": b"\x80\x04P1\n.",
    "binary persistent id": b"\x80\x04K\x01Q.",
    "out of band buffer": b"\x80\x05\x97.",
    "memo index": b"\x80\x02}r\xff\xff\xff\x7f.",
    "memo index as text": b"(dp999999999\n.",
    "negative memo index": b"(dp-5\n.",
    "memo index no number": b"(dpx\n.",
    "bytes of a size": b"\x80\x02}X\x04\x00\x00\x00typec__builtin__\nbytes\nJ\x00\x00\x00\x7f\x85Rs.",
    "encode with a codec": b"\x80\x02}X\x04\x00\x00\x00typec_codecs\nencode\n"
    b"X\x01\x00\x00\x00xX\x05\x00\x00\x00rot13\x86Rs.",
    "rebuild something": b"\x80\x02}X\x04\x00\x00\x00typeccopy_reg\n_reconstructor\n"
    b"c__builtin__\nset\nc__builtin__\nobject\nN\x87Rs.",
    "change a stand-in": b"\x80\x02}X\x04\x00\x00\x00typec_codecs\nencode\n}X\x01\x00\x00\x00xK\x01sbs.",
    "change a class": b"\x80\x02}X\x04\x00\x00\x00typecuuid\nUUID\nN}X\x03\x00\x00\x00intK\x01s\x86bs.",
    "tuples nested deep": b"\x80\x04}\x8c\x04type)" + b"\x85" * 1_000_000 + b"K\x01s.",
    "stack underflow": b"\x80\x04a.",
    "two pickles": pickle.dumps({"type": "x"}) * 2,
    "later protocol": b"\x80\x09}.",
    "json nested deep": b'{"type":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "messagepack nested deep": b"\x81\xa4type" + b"\x91" * 100_000 + b"\x01",
    "messagepack extension": b"\x81\xa4type\xc7\x01\x05a",
    "messagepack key": b"\x82\xa4type\xa1x\x91\x01\x02",
    "digits": b'{"type": "x", "n": ' + b"9" * 100_000 + b"}",
    "a list": pickle.dumps(["type"], 2),
    "no type": b'{"kind": "x"}',
    "a type that is no text": b'{"type": ["x"]}',
    "a type without end": json.dumps({"type": "x" * 1000}).encode(),
    "words": b"hello",
    "nothing": b"",
    "zeros": b"\x00" * 100,
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_no_job_is_refused_with_a_sentence(what):
    with pytest.raises(Unreadable) as refused:
        parse(HOSTILE[what])

    assert 10 < len(str(refused.value)) < 700


def test_a_hundred_thousand_tuples_side_by_side_are_plain():
    job = {"type": "x", "points": [(n, n) for n in range(100_000)]}

    assert parse(pickle.dumps(job)).data == job


def test_random_bytes_and_flipped_bits_never_do_worse_than_being_refused():
    chance = random.Random(7)
    whole = [pickle.dumps(PLAIN, protocol) for protocol in range(6)]
    for turn in range(3000):
        data = bytearray(whole[turn % 6])
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data) if turn % 2 else 400)] = chance.randrange(256)
        with contextlib.suppress(Unreadable):
            parse(bytes(data))
