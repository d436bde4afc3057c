"""Pickles of Python 2: a str says nothing of its encoding, so each is read by itself."""

from __future__ import annotations

import json
import shutil
import subprocess
from datetime import date, datetime, time, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skunkqueue.spool import pickles
from skunkqueue.spool.contents import parse


def short(data):
    """A str as Python 2 writes it in protocols 1 and 2."""
    return b"U" + bytes([len(data)]) + data


def line(data):
    """A str as Python 2 writes it in protocol 0."""
    return b"S'" + b"".join(b"\\x%02x" % byte for byte in data) + b"'\n"


def long(data):
    return b"T" + len(data).to_bytes(4, "little") + data


WRITERS = (short, line, long)


def made(kind, state, write):
    return b"cdatetime\n" + kind.encode() + b"\n" + write(state) + b"\x85R"


def state(value):
    """The bytes in which a date or time is pickled."""
    return value.__reduce_ex__(2)[1][0]


def as_text(data):
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    "when",
    [
        datetime(2020, 2, 29, 12),
        datetime(1920, 12, 31, 23, 59, 59, 999999),
        datetime(1, 1, 1),
        datetime(9999, 12, 31),
        date(2020, 1, 1),
        time(12, 30, 15, 200000),
    ],
    ids=str,
)
def test_text_beside_a_date_is_read_by_itself(write, when):
    texts = {"utf8": "café".encode(), "latin": b"caf\xe9", "ascii": b"cafe", "empty": b"", "binary": bytes(range(200))}
    items = b"".join(write(name.encode()) + write(text) for name, text in texts.items())
    pickled = b"\x80\x02}(" + write(b"type") + write(b"x") + items + write(b"when")
    pickled += made(type(when).__name__, state(when), write) + b"u."

    found = parse(pickled).data

    assert found.pop("when") == when
    assert found == {
        "type": "x", "utf8": "café", "latin": "café", "ascii": "cafe", "empty": "",
        "binary": bytes(range(200)).decode("latin-1"),
    }  # fmt: skip


moments = st.datetimes() | st.dates() | st.times()


@settings(deadline=None, max_examples=300)
@given(st.lists(st.binary(max_size=40) | st.text(max_size=20).map(str.encode) | moments), st.sampled_from(WRITERS))
def test_any_text_and_any_date_in_any_order(values, write):
    pickled = b"(l"
    for value in values:
        pickled += write(value) if isinstance(value, bytes) else made(type(value).__name__, state(value), write)
        pickled += b"a"

    found = pickles.load(pickled + b".")

    assert found == [as_text(value) if isinstance(value, bytes) else value for value in values]
    assert [type(one) for one in found] == [str if isinstance(value, bytes) else type(value) for value in values]


def test_dates_whose_bytes_are_utf_8_by_chance():
    # A year of 0xc3a9 there is none; month and day, or microseconds, may look like a character.
    for micro in (0x00C3A9, 0x0CC3A9, 0x01C2B0):
        when = datetime(2020, 1, 1, 0, 0, 0, micro % 1_000_000)
        assert pickles.load(b"\x80\x02" + made("datetime", state(when), short) + b".") == when


def python_2():
    for python in (shutil.which("python2.7"), str(Path.home() / ".pyenv/versions/2.7.18/bin/python2.7")):
        if python and Path(python).exists() and not subprocess.run([python, "-c", ""], capture_output=True).returncode:
            return python
    return pytest.skip("there is no Python 2 here")


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_what_a_real_python_2_writes(protocol, tmp_path):
    python = python_2()
    source = (
        "import pickle, datetime, decimal\n"
        "data = {'type': 'x', 'name': u'caf\\xe9'.encode('utf-8'), 'old': 'caf\\xe9', u'u': u'\\u017e',\n"
        "  'when': datetime.datetime(2020, 2, 29, 12, 0, 0, 50089), 'day': datetime.date(2020, 1, 1),\n"
        "  'at': datetime.time(1, 2), 'took': datetime.timedelta(3), 'n': 12L, 'many': set([1]),\n"
        "  'd': decimal.Decimal('1.5')}\n"
        f"open({str(tmp_path / 'job')!r}, 'wb').write(pickle.dumps(data, {protocol}))\n"
    )
    subprocess.run([python, "-c", source], check=True)

    found = parse((tmp_path / "job").read_bytes()).data

    assert json.loads(json.dumps({key: found[key] for key in ("type", "name", "old", "u", "n")})) == {
        "type": "x", "name": "café", "old": "café", "u": "ž", "n": 12,
    }  # fmt: skip
    assert found["when"] == datetime(2020, 2, 29, 12, 0, 0, 50089)
    assert (found["day"], found["at"], found["took"]) == (date(2020, 1, 1), time(1, 2), timedelta(3))
