"""Durations: seconds or a timedelta, and nothing else."""

from __future__ import annotations

from datetime import timedelta

import pytest

from skunkqueue.durations import seconds
from skunkqueue.errors import WrongCall


@pytest.mark.parametrize(("value", "expected"), [(5, 5.0), (0, 0.0), (0.5, 0.5), (timedelta(minutes=1), 60.0)])
def test_a_duration_is_seconds_or_a_timedelta(value, expected):
    assert seconds(value, "timeout") == expected


@pytest.mark.parametrize(
    "value",
    [-1, float("nan"), float("inf"), True, "5", None, timedelta(seconds=-1), 10**400],
    ids=lambda v: repr(v)[:20],
)
def test_anything_else_is_refused_with_its_name(value):
    with pytest.raises(WrongCall, match="timeout is a number of seconds"):
        seconds(value, "timeout")
