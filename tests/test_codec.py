"""Values to bytes and back: exact, or refused, or signed; and never more than reading."""

from __future__ import annotations

import contextlib
import enum
import math
import os
import pickle
import struct
import threading
import uuid
from collections import OrderedDict, namedtuple
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from zoneinfo import ZoneInfo

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skunkqueue import codec
from skunkqueue.codec import CALL, Keys, decode_call, decode_value, encode_call, encode_value, is_pickled
from skunkqueue.errors import BadSignature, Corrupt, NotPlain, PayloadError, UnknownJob

KEYS = Keys(b"a test's key")
PATIENT = settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))

Point = namedtuple("Point", "x y")


class Colour(enum.IntEnum):
    RED = 1


class Name(str):
    pass


class Mine:
    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        return type(other) is Mine and self.value == other.value

    def __hash__(self):
        return 1

    def __repr__(self):
        return f"Mine({self.value!r})"  # names a test, so it is the same in every process


def no_keys() -> Keys:
    raise AssertionError("a plain value touched the keys")


def exact(value):
    """A value with its types spelled out, so that == compares what Python's == does not."""
    kind = type(value)
    if kind in (list, tuple):
        return kind, [exact(item) for item in value]
    if kind in (set, frozenset):
        return kind, sorted(repr(exact(item)) for item in value)
    if kind is dict:
        return kind, [(exact(key), exact(item)) for key, item in value.items()]
    if kind is float:
        return kind, struct.pack(">d", value)
    if kind is datetime:
        zone = value.tzinfo
        shown = repr(zone), getattr(zone, "key", None), value.tzname()
        return kind, value.replace(tzinfo=None), value.fold, type(zone), shown
    if kind is uuid.UUID:
        return kind, value.int, value.is_safe
    if kind is Decimal:
        return kind, str(value)
    return kind, value


zones = st.one_of(
    st.none(),
    st.just(UTC),
    st.sampled_from([ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Kathmandu"), ZoneInfo("UTC")]),
    st.builds(
        timezone,
        st.timedeltas(min_value=timedelta(hours=-23), max_value=timedelta(hours=23)),
    ),
    st.builds(timezone, st.just(timedelta(hours=2)), st.text(min_size=1, max_size=5)),
)
moments = st.builds(
    lambda moment, zone, fold: moment.replace(tzinfo=zone, fold=fold), st.datetimes(), zones, st.integers(0, 1)
)
hashable_leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(2**200), max_value=2**200),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    moments,
    st.dates(),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.uuids(),
)
leaves = st.one_of(hashable_leaves, st.floats(), st.just(Decimal("NaN")), st.just(Decimal("-sNaN12")))
keys_of_dicts = st.recursive(
    hashable_leaves,
    lambda inner: st.one_of(st.tuples(inner, inner), st.frozensets(inner, max_size=3)),
    max_leaves=4,
)
plain_values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(keys_of_dicts, inner, max_size=4),
        st.sets(keys_of_dicts, max_size=4),
        st.frozensets(keys_of_dicts, max_size=4),
    ),
    max_leaves=12,
)


@PATIENT
@given(plain_values)
def test_a_plain_value_comes_back_exactly_as_it_went_and_touches_no_key(value):
    data = encode_value(value, no_keys, "plain")

    assert exact(decode_value(data, no_keys)) == exact(value)


@PATIENT
@given(st.lists(plain_values, max_size=4), st.dictionaries(st.text(max_size=5), plain_values, max_size=3))
def test_plain_arguments_come_back_exactly_as_they_went(args, kwargs):
    data = encode_call(tuple(args), kwargs, "plain")
    got_args, got_kwargs = decode_call(data)

    assert not is_pickled(data)
    assert exact(list(got_args)) == exact(args)
    assert exact(got_kwargs) == exact(kwargs)


def test_a_repeated_hour_keeps_its_fold():
    second_half_past_two = datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin"))

    back = decode_value(encode_value(second_half_past_two, no_keys), no_keys)

    assert back.fold == 1
    assert back.utcoffset() == timedelta(hours=1)


def test_utc_stays_the_one_utc():
    assert decode_value(encode_value(datetime(2026, 1, 1, tzinfo=UTC), no_keys)).tzinfo is UTC


def test_a_uuid_keeps_what_is_known_of_its_safety():
    for safety in uuid.SafeUUID:
        value = uuid.UUID(int=7, is_safe=safety)

        assert decode_value(encode_value(value, no_keys)).is_safe is safety


@pytest.mark.parametrize(
    "value",
    [
        Colour.RED,
        Name("x"),
        Point(1, 2),
        OrderedDict(a=1),
        bytearray(b"x"),
        msgpack.Timestamp(1, 2),
        msgpack.ExtType(1, b""),
        Mine(3),
        int,
        complex(1, 2),
        datetime(2026, 1, 1).time(),
        "\ud800",
        range(3),
    ],
    ids=repr,
)
@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [1, (v,)], lambda v: {"k": [v]}], ids=["bare", "deep", "dict"])
def test_what_only_looks_plain_goes_by_signed_pickle_and_comes_back_exactly(value, wrap):
    data = encode_value(wrap(value), KEYS)

    assert is_pickled(data)
    assert exact(decode_value(data, KEYS)) == exact(wrap(value))


def test_only_the_odd_argument_makes_the_call_a_pickle():
    assert is_pickled(encode_call((1, bytearray(b"x")), {}))
    assert decode_call(encode_call((1, bytearray(b"x")), {"k": Name("n")})) == ((1, bytearray(b"x")), {"k": "n"})


@pytest.mark.parametrize(
    ("args", "kwargs", "said"),
    [
        ((1, bytearray(b"x")), {}, r"argument 2 is not plain: it holds a bytearray"),
        ((1,), {"second": [Mine(1)]}, r"argument 'second' is not plain: it holds a .*\.Mine"),
        ((Colour.RED,), {}, r"argument 1 is not plain: it holds a .*\.Colour"),
        (("\ud800",), {}, r"argument 1 is not plain: it holds a str with a lone surrogate"),
        ((memoryview(b"x"),), {}, r"argument 1 is not plain: it holds a memoryview"),
    ],
)
def test_plain_refuses_and_names_the_argument(args, kwargs, said):
    with pytest.raises(NotPlain, match=said):
        encode_call(args, kwargs, "plain")


def test_plain_refuses_a_result_that_is_not():
    with pytest.raises(NotPlain, match=r"the result is not plain: it holds a .*Mine"):
        encode_value(Mine(1), no_keys, "plain")


def test_a_list_that_holds_itself_goes_by_pickle():
    loop = [1]
    loop.append(loop)

    back = decode_value(encode_value(loop, KEYS), KEYS)

    assert back[1] is back
    with pytest.raises(NotPlain, match="itself"):
        encode_call((loop,), {}, "plain")


def test_a_hundred_lists_that_share_each_other_do_not_become_two_to_the_hundred():
    value = []
    for _ in range(100):
        value = [value, value]

    back = decode_value(encode_value(value, KEYS), KEYS)

    assert back[0] is back[1]


def test_too_deep_a_value_is_a_clear_error():
    deep = []
    for _ in range(100_000):
        deep = [deep]

    with pytest.raises(PayloadError, match="excessively deep recursion"):
        encode_value(deep, KEYS)
    with pytest.raises(PayloadError, match="excessively deep recursion"):
        encode_call((deep,), {})


def test_what_cannot_be_pickled_is_a_clear_error():
    with pytest.raises(PayloadError, match="the result cannot be sent: TypeError: cannot pickle"):
        encode_value(threading.Lock(), KEYS)
    with pytest.raises(PayloadError, match="the arguments cannot be sent"):
        encode_call((threading.Lock(),), {})


def test_an_exception_in_somebodys_reduce_is_a_clear_error():
    class Angry:
        def __reduce__(self):
            raise KeyError("no")

    with pytest.raises(PayloadError, match="KeyError"):
        encode_value(Angry(), KEYS)


# -- strangers' bytes


@PATIENT
@given(st.binary(max_size=200))
def test_random_bytes_are_refused_or_read_and_nothing_else(data):
    for first in (b"", b"m", b"p"):
        for read in (lambda d: decode_value(d, KEYS), decode_call if first != b"p" else lambda d: None):
            with contextlib.suppress(Corrupt, BadSignature):
                read(first + data)


@PATIENT
@given(plain_values, st.data())
def test_truncated_and_flipped_bytes_are_refused_or_read_and_nothing_else(value, data):
    whole = encode_value([value, (value,)], KEYS)
    cut = data.draw(st.integers(0, len(whole) - 1))
    flipped = bytearray(whole)
    flipped[cut] ^= data.draw(st.integers(1, 255))

    for bad in (whole[:cut], bytes(flipped)):
        with contextlib.suppress(Corrupt, BadSignature):
            decode_value(bad, KEYS)


def test_a_mark_where_none_may_stand_is_refused():
    mark = msgpack.ExtType(1, b"")

    for bad in (mark, [1, mark], {1: mark}, {mark: 1}, [mark, mark]):
        with pytest.raises(Corrupt):
            decode_value(b"m" + msgpack.packb(bad), KEYS)


def test_foreign_extensions_are_refused():
    with pytest.raises(Corrupt):
        decode_value(b"m" + msgpack.packb(msgpack.ExtType(77, b"x")), KEYS)


def test_marks_within_marks_to_any_depth_only_fail_to_be_read():
    deep = b"\x92\xc7\x00\x01" * 100_000

    with pytest.raises(Corrupt):
        decode_value(b"m" + deep, KEYS)


@pytest.mark.parametrize("data", [b"m", b"", b"x", b"m\xc0", b"m\x92\x90\x90", b"m\x92\x90\x81\x01\x02", b"m\x01"])
def test_a_call_that_is_none_is_corrupt(data):
    with pytest.raises(Corrupt, match="cannot be read"):
        decode_call(data)


class Executes:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_an_unsigned_pickle_is_not_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    for signature in (b"", b"\0" * 36, Keys(b"a stranger").sign(codec.VALUE, pickle.dumps(Executes()))):
        with pytest.raises(BadSignature):
            decode_value(b"p" + signature + pickle.dumps(Executes()), KEYS)

    assert not (tmp_path / "executed").exists()


def test_a_module_that_is_not_here_may_be_known_to_another_worker():
    with pytest.raises(UnknownJob, match="nowhere_to_be_found"):
        codec.unpickle(b"cnowhere_to_be_found\nthing\n.")


def test_code_of_another_python_may_run_on_another_worker():
    with pytest.raises(UnknownJob, match=r"Python 2\.7"):
        codec.unpickle_function(codec.pickle_function(lambda: 1), "2.7")


def test_a_function_travels_with_what_it_mentions():
    offset = 40

    assert codec.unpickle_function(codec.pickle_function(lambda x: x + offset))[0](2) == 42


# -- keys


def test_a_signature_is_good_for_its_purpose_and_data_only():
    signature = KEYS.sign(CALL, b"data")

    KEYS.verify(CALL, b"data", signature)
    for purpose, data in ((b"value", b"data"), (CALL, b"datb"), (CALL[:-1], CALL[-1:] + b"data")):
        with pytest.raises(BadSignature, match="does not fit"):
            KEYS.verify(purpose, data, signature)


def test_a_stranger_is_told_both_fingerprints_and_what_to_do():
    other = Keys(b"another")
    theirs, ours = other.sign(CALL, b"")[:4].hex(), KEYS.sign(CALL, b"")[:4].hex()

    with pytest.raises(BadSignature, match=f"signed with {theirs}, this worker has {ours}: set SKUNKQUEUE_KEY on both"):
        KEYS.verify(CALL, b"x", other.sign(CALL, b"x"))


def test_a_missing_signature_is_called_missing():
    with pytest.raises(BadSignature, match="not signed"):
        KEYS.verify(CALL, b"x", b"")


def test_the_first_key_signs_and_all_verify(monkeypatch):
    monkeypatch.setenv("SKUNKQUEUE_KEY", "new, old")
    both = Keys.load()

    both.verify(CALL, b"x", Keys(b"old").sign(CALL, b"x"))
    Keys(b"new").verify(CALL, b"x", both.sign(CALL, b"x"))


def test_a_key_shows_nowhere():
    assert "test's key" not in repr(KEYS) + str(KEYS)
    with pytest.raises(TypeError):
        pickle.dumps(KEYS)


def test_the_default_keys_follow_the_environment(monkeypatch):
    monkeypatch.setenv("SKUNKQUEUE_KEY", "one")
    one = codec.default_keys()
    assert codec.default_keys() is one

    monkeypatch.setenv("SKUNKQUEUE_KEY", "two")

    assert repr(codec.default_keys()) == repr(Keys(b"two"))


def test_extreme_scalars_come_back():
    for value in (
        2**63,
        2**64,
        -(2**63) - 1,
        -(2**64),
        0,
        -1,
        10**400,
        math.inf,
        date.max,
        timedelta.max,
        timedelta.min,
    ):
        assert exact(decode_value(encode_value(value, no_keys), no_keys)) == exact(value)
        assert exact(decode_call(encode_call((value,), {}))[0]) == exact([value])
