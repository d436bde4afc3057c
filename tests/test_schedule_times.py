"""The times of schedules: a year in four zones, leap days, phases; and what people write wrongly."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from math import inf
from zoneinfo import ZoneInfo

import pytest

from skunkqueue.errors import WrongCall
from skunkqueue.schedules.when import Adaptive, Cron, Interval, is_fixed, packed, unpacked, when_of

ZONES = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Santiago"]
"""Two of the north, two of the south; one that moves by half an hour, one at midnight."""


def at(*when, zone=UTC):
    return datetime(*when, tzinfo=zone).timestamp()


def year_of(when):
    """The ticks of 2027, each asked for anew from the one before."""
    end, tick = at(2028, 1, 1), at(2026, 12, 31, 23, 59, 59)
    while (tick := when.after(tick, 0.0)) < end:
        yield tick


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("time", ["30 2 * * *", "0 0 * * *", "45 1 * * *", "15 3 * * *", "59 23 * * *"])
def test_a_daily_time_comes_once_on_each_day_of_a_year(zone, time):
    days = [datetime.fromtimestamp(tick, ZoneInfo(zone)).date() for tick in year_of(when_of(time, zone))]

    assert date(2026, 12, 31) <= days[0] <= date(2027, 1, 2)  # the year is UTC's
    assert days == [days[0] + timedelta(days=n) for n in range(365)]


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("time", ["30 2 * * *", "15 4 * * *"])
def test_a_daily_time_is_that_time_but_where_the_clock_skips_it(zone, time):
    minute, hour = map(int, time.split()[:2])

    odd = []
    for tick in year_of(when_of(time, zone)):
        local = datetime.fromtimestamp(tick, ZoneInfo(zone))
        if (local.hour, local.minute) != (hour, minute):
            odd.append(local)

    assert len(odd) <= 1
    for local in odd:
        nominal = local.replace(hour=hour, minute=minute)
        assert nominal.astimezone(UTC).astimezone(ZoneInfo(zone)) != nominal  # there is no such time on this day


@pytest.mark.parametrize("zone", ZONES)
def test_a_text_with_stars_follows_the_real_hours(zone):
    ticks = list(year_of(when_of("*/15 * * * *", zone)))

    assert {later - earlier for earlier, later in pairwise(ticks)} == {900.0}
    assert len(ticks) == 365 * 96


@pytest.mark.parametrize("zone", ZONES)
def test_the_latest_tick_is_the_one_before_the_next_whenever_one_asks(zone):
    when = when_of("30 2 * * *", zone)
    ticks = list(year_of(when))

    for earlier, later in pairwise(ticks):
        for now in (earlier, earlier + 1, later - 1):
            assert when.latest(ticks[0], now, 0.0) == earlier
            assert when.after(now, 0.0) == later


def test_a_leap_day_comes_every_fourth_year():
    when = when_of("0 12 29 2 *")

    first = when.after(at(2026, 1, 1), 0.0)
    second = when.after(first, 0.0)

    assert first == at(2028, 2, 29, 12)
    assert second == at(2032, 2, 29, 12)
    assert when.latest(first, at(2031, 6, 1), 0.0) == first
    assert when_of("0 0 * * *").after(at(2028, 2, 28, 1), 0.0) == at(2028, 2, 29)


def test_an_interval_keeps_its_phase():
    when = Interval(90.0)

    assert when.first(1000.5) == 1090.5
    assert when.after(1090.5, 1000.5) == 1180.5
    assert when.after(1_000_000.0, 1000.5) == 1000.5 + 90 * 11100
    assert when.latest(1090.5, 1_000_000.0, 1000.5) == 1000.5 + 90 * 11099
    assert when.latest(1090.5, 1090.5, 1000.5) == 1090.5


@pytest.mark.parametrize("every", [1.1, 7.3, 86400.0, 6 * 3600.0, 1e9])
def test_the_next_tick_of_an_interval_is_always_later(every):
    when, anchor = Interval(every), 1.7957e9 + 0.123
    tick = anchor

    for _ in range(1000):
        following = when.after(tick, anchor)
        assert tick < following <= tick + 1.001 * every
        assert when.latest(tick, tick, anchor) == tick
        tick = following


@pytest.mark.parametrize(
    ("every", "found"),
    [
        ("90s", Interval(90.0)),
        ("1.5h", Interval(5400.0)),
        (" 2 d ", Interval(172800.0)),
        (timedelta(hours=6), Interval(21600.0)),
        (5, Interval(5.0)),
        ("0  7 * * mon-fri", Cron("0 7 * * mon-fri")),
        (Adaptive(timedelta(minutes=1), 3600), Adaptive(60.0, 3600.0)),
    ],
)
def test_what_people_write_is_read(every, found):
    assert when_of(every) == found
    assert unpacked(packed(found)) == found


def test_a_zone_is_a_name_or_a_zone():
    assert when_of("0 7 * * *", ZoneInfo("Asia/Tokyo")) == when_of("0 7 * * *", "Asia/Tokyo")
    assert when_of("0 7 * * *", UTC) == when_of("0 7 * * *") == Cron("0 7 * * *", "UTC")


def test_a_function_is_not_fixed():
    assert not is_fixed(when_of(lambda last: 5))
    assert not is_fixed(when_of(Adaptive(1, 2)))
    assert is_fixed(when_of("90s"))


@pytest.mark.parametrize(
    ("every", "zone", "said"),
    [
        ("soon", None, "every is a duration"),
        ("0 7 * *", None, "is not cron text"),
        ("61 * * * *", None, "Bad minute"),
        ("0 0 30 2 *", None, "is not cron text"),
        ("0 7 * * *", "Mars/Phobos", "there is no time zone 'Mars/Phobos'"),
        ("0 7 * * *", 5, "zone is the name of a time zone"),
        ("90s", "Europe/Berlin", "zone is for cron text"),
        (0.5, None, "every is at least 1 second"),
        (-5, None, "every is a number of seconds from 0 up"),
        (True, None, "every is a duration"),
        (inf, None, "every is a number of seconds"),
        (Adaptive(60, 5), None, "the least and the most"),
        (Adaptive(1, 2, factor=1), None, "factor of Adaptive"),
    ],
)
def test_what_is_wrong_is_said(every, zone, said):
    with pytest.raises(WrongCall, match=said):
        when_of(every, zone)


def test_an_adaptive_interval_grows_after_failures_and_shrinks_after_news():
    adaptive = Adaptive(60.0, 3600.0)

    assert adaptive.next(600.0, failed=True, news=False) == 1200.0
    assert adaptive.next(600.0, failed=False, news=True) == 300.0
    assert 600.0 < adaptive.next(600.0, failed=False, news=False) < 800.0
    assert adaptive.next(3000.0, failed=True, news=False) == 3600.0
    assert adaptive.next(70.0, failed=False, news=True) == 60.0
