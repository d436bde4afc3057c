"""Durations: seconds, a timedelta or a text with units, and nothing else; and how they are told to people."""

from __future__ import annotations

from datetime import timedelta

import pytest

from skunkqueue.durations import age, seconds, seconds_left, span
from skunkqueue.errors import WrongCall


@pytest.mark.parametrize(("value", "expected"), [(5, 5.0), (0, 0.0), (0.5, 0.5), (timedelta(minutes=1), 60.0)])
def test_a_duration_is_seconds_or_a_timedelta(value, expected):
    assert seconds(value, "timeout") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5m", 300),
        ("1h30m", 5400),
        ("1h 30m", 5400),
        ("30s", 30),
        ("2.5s", 2.5),
        ("500ms", 0.5),
        ("7d", 604800),
        ("1w", 604800),
    ],
)
def test_a_duration_may_be_a_text_with_units(text, expected):
    assert seconds(text, "timeout") == expected
    assert seconds_left(text, "timeout") == expected


@pytest.mark.parametrize("text", ["", "5", "m", "5 minutes", "-5m", "5m!", "1:30", "\u0665m"])
def test_a_text_without_units_or_with_others_is_refused(text):
    with pytest.raises(WrongCall, match='timeout is a number of seconds, a timedelta or a text like "1h30m"'):
        seconds(text, "timeout")


@pytest.mark.parametrize(
    ("took", "told"),
    [
        (0.00025, "0.25 ms"), (0.25, "250.00 ms"), (0.9999, "1.0 s"), (30.05894, "30.1 s"), (59.96, "1m 00s"),
        (312, "5m 12s"), (7500, "2h 05m"), (3 * 86400 + 4 * 3600, "3d 4h"),
    ],
)  # fmt: skip
def test_a_span_is_told_in_a_unit_that_fits(took, told):
    assert span(took) == told


@pytest.mark.parametrize(
    ("since", "told"), [(-3, "0s"), (12.9, "12s"), (119, "119s"), (125, "2m"), (7300, "2h"), (200_000, "2d")]
)
def test_an_age_is_one_number_with_a_unit(since, told):
    assert age(since) == told


@pytest.mark.parametrize(
    "value",
    [-1, float("nan"), float("inf"), True, "5", None, timedelta(seconds=-1), 10**400],
    ids=lambda v: repr(v)[:20],
)
def test_anything_else_is_refused_with_its_name(value):
    with pytest.raises(WrongCall, match="timeout is a number of seconds"):
        seconds(value, "timeout")
