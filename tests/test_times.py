"""Dates and durations, however odd: refused where they are given, or held; never an error where they are looked at."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import time
from datetime import UTC, datetime, timedelta, timezone, tzinfo

import pytest
from hands import Hands
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skunkqueue import Backoff, Retry, SkunkQueue, WaitTimeout, WrongCall, cli
from skunkqueue.envelope import Envelope
from skunkqueue.policy import Raised, judge
from skunkqueue.testing import drain
from skunkqueue.times import LATEST, as_datetime, as_local, since_epoch

ZONES = ("UTC", "Europe/Berlin", "Pacific/Kiritimati", "Etc/GMT+12", "America/New_York")


@contextlib.contextmanager
def local_zone(name):
    before = os.environ.get("TZ")
    os.environ["TZ"] = name
    time.tzset()
    try:
        yield
    finally:
        os.environ.pop("TZ") if before is None else os.environ.update(TZ=before)
        time.tzset()


class TakesLocalForUtc(datetime):
    """As pandas' Timestamp does: one without a time zone says its timestamp as if it were UTC."""

    def timestamp(self):
        return (self.replace(tzinfo=self.tzinfo or UTC) - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()


class NotATime(datetime):
    """As pandas' NaT: a datetime that is no time."""

    def __eq__(self, other):
        return False

    def __ne__(self, other):
        return True

    __hash__ = None


@pytest.fixture
def queue():
    with SkunkQueue("times", "memory://times") as queue:
        yield queue


@pytest.fixture
def job(queue):
    @queue.event
    def job(number=0):
        return number

    return job


# -- when a run is due


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("kind", [datetime, TakesLocalForUtc])
def test_a_datetime_without_a_time_zone_is_local_whatever_its_class_says(job, zone, kind):
    with local_zone(zone):
        run = job.fire_at(kind(2099, 7, 1, 12, 30, 15, 123456))

        assert run.due.timestamp() == datetime(2099, 7, 1, 12, 30, 15, 123456).timestamp()
        assert (run.due.hour, run.due.minute) == (12, 30)
        assert job.fire_at(kind(2099, 7, 1, 12, tzinfo=UTC)).due == datetime(2099, 7, 1, 12, tzinfo=UTC)


def test_what_is_no_time_is_refused(job):
    with pytest.raises(WrongCall, match="no point in time"):
        job.fire_at(NotATime(1, 1, 1))


@pytest.mark.parametrize("offset", [None, 0.0, 3.7, -3600.123])
def test_runs_for_one_datetime_are_due_at_that_very_time_and_run_in_the_order_of_firing(
    queue, job, offset, monkeypatch
):
    monkeypatch.setattr(queue.store, "offset", lambda: offset)
    when = datetime.now(UTC) + timedelta(hours=2)
    for number in range(300):
        job.fire_at(when, number)
    job.fire_many([(number,) for number in range(300, 310)])  # due before all of these

    claims = Hands(queue).take(late=3 * 3600)

    assert {claim.envelope.due for claim in claims[10:]} == {when.timestamp()}
    assert [claim.id for claim in claims[10:]] == sorted(claim.id for claim in claims[10:])


@pytest.mark.parametrize("after", [30, timedelta(seconds=30), 0])
def test_runs_for_equal_delays_run_in_the_order_of_firing(queue, job, after):
    fired = [job.fire_at(after, number).id for number in range(300)]

    assert [claim.id for claim in Hands(queue).take(late=60)] == fired


def test_the_first_fire_of_a_process_is_due_when_it_was_asked_for_however_long_the_store_takes_to_open(monkeypatch):
    with SkunkQueue("times", "memory://slow") as queue:
        when = datetime.now(UTC) + timedelta(hours=1)
        now = queue.now
        monkeypatch.setattr(queue, "now", lambda: (time.sleep(0.05), now())[1])

        run = queue.event(print).fire_at(when)

    assert run.due == when


@pytest.mark.parametrize(
    "when", [-1e-9, -1e300, timedelta.min, timedelta(microseconds=-1), datetime.min, datetime(1, 1, 1)]
)
@pytest.mark.parametrize("zone", ZONES)
def test_what_is_past_means_now(queue, job, when, zone):
    with local_zone(zone):
        before = queue.clock.now()
        job.fire_at(when)

        assert before <= Hands(queue).take()[0].envelope.due <= queue.clock.now()


@pytest.mark.parametrize("when", [1e300, 10**17, timedelta.max, datetime.max, datetime.max.replace(tzinfo=UTC)])
@pytest.mark.parametrize("zone", ZONES)
def test_what_is_too_late_to_be_held_is_refused(job, when, zone):
    with local_zone(zone), pytest.raises(WrongCall, match="9999"):
        job.fire_at(when)


@pytest.mark.parametrize("when", [1_000_000_000, 1_796_079_600.25])
def test_a_time_since_the_epoch_is_not_taken_for_a_delay(queue, job, when):
    with pytest.raises(WrongCall, match=rf"seconds from now.* years; .*datetime.fromtimestamp\({when:.0f}\)"):
        job.fire_at(when)
    with pytest.raises(WrongCall, match="seconds from now"):
        job.after(job.fire()).fire_at(when)

    assert job.fire_at(999_999_999).due > datetime(2058, 1, 1, tzinfo=UTC)
    assert job.fire_at(timedelta(seconds=1e9)).due > datetime(2058, 1, 1, tzinfo=UTC)


# -- what is counted from now


@pytest.mark.parametrize("after", [-1e-9, -5, timedelta(microseconds=-1), timedelta.min, 0])
@pytest.mark.parametrize("how", ["Retry", "backoff"])
def test_a_retry_that_was_to_be_in_the_past_is_tried_at_once(queue, after, how):
    tries = []

    @queue.event(retries=1, backoff=(lambda attempt: after) if how == "backoff" else 3600)
    def job():
        tries.append(1)
        if len(tries) == 1:
            raise Retry("later", after=after) if how == "Retry" else OSError("later")
        return "done"

    run = job.fire()
    with WorkerPoolInProcess(queue):
        assert run.wait(20) == "done"


def WorkerPoolInProcess(queue):
    from skunkqueue import WorkerPool

    return WorkerPool(queue, in_process=True, log=io.StringIO())


@pytest.mark.parametrize("after", [math.nan, math.inf, "soon"], ids=repr)
@pytest.mark.parametrize("how", ["Retry", "backoff"])
def test_a_retry_at_no_time_fails_and_says_so(queue, after, how):
    @queue.event(retries=5, backoff=(lambda attempt: after) if how == "backoff" else 0)
    def job():
        raise Retry("later", after=after) if how == "Retry" else OSError("later")

    run = job.fire()
    drain(queue)

    assert run.state == "failed"
    assert "time until the next attempt is a number of seconds" in run.error


@pytest.mark.parametrize("after", [1e300, 10**15, timedelta.max])
def test_a_retry_in_ages_can_be_looked_at(queue, after):
    @queue.event(retries=5)
    def job():
        raise Retry("later", after=after)

    run = job.fire()
    drain(queue)

    assert run.state == "scheduled"
    assert as_datetime(queue.store.get([run.id])[run.id].ripe) < datetime.max.replace(tzinfo=UTC)


def test_the_judge_holds_what_any_sender_sealed():
    from skunkqueue.envelope import Seal
    from skunkqueue.policy import NONE

    outcome = judge(Raised("E", "m"), Seal(5, 1e308, 1e308, 1e308, False), NONE, now=1e9)

    assert as_datetime(outcome.due) < datetime.max.replace(tzinfo=UTC)


@pytest.mark.parametrize("timeout", [-1e-9, -1, timedelta.min, 0])
def test_a_wait_with_no_time_left_looks_once(queue, job, timeout):
    run = job.fire(7)
    with pytest.raises(WaitTimeout):
        run.wait(timeout)
    drain(queue)

    assert run.wait(timeout) == 7


# -- anything at all

numbers = st.one_of(
    st.floats(),
    st.integers(),
    st.sampled_from(
        [0, 1e10, 1e11, LATEST, 2.0**31, 2.0**63, 1e300, 10**400, 10**5000, -0.0, -1e-9, math.nan, math.inf]
    ),
)
anything = st.one_of(numbers, st.timedeltas(), st.none(), st.booleans(), st.text(max_size=3))


class OddZone(tzinfo):
    def utcoffset(self, when):
        return timedelta(hours=23, minutes=59)

    def dst(self, when):
        return None


zones = st.one_of(st.none(), st.just(UTC), st.just(timezone(timedelta(hours=-23))), st.just(OddZone()))
moments = st.datetimes(timezones=zones) | st.sampled_from(
    [datetime.min, datetime.max, datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=timezone.max)]
)
options = st.fixed_dictionaries(
    {},
    optional={
        "retries": anything,
        "backoff": anything | st.builds(lambda *given: Backoff(*given), st.floats(0, 1e300), st.floats(0, 1e300)),
        "timeout": anything,
        "expires": anything,
        "keep": anything,
    },
)


def skunq(*words):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 0
    return out.getvalue()


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(options, moments | anything, st.sampled_from(ZONES))
def test_whatever_is_given_is_refused_where_it_is_given_or_held(queue, given_options, when, zone):
    with local_zone(zone):
        try:
            run = queue.event(**given_options)(print).fire_at(when)
        except WrongCall:
            return

        look_at(queue, run)
        for claim in Hands(queue).take(late=0.001):
            queue.store.cancel([claim.id], now=queue.clock.now())
        look_at(queue, run)


def look_at(queue, run):
    assert run.state in ("scheduled", "queued", "running", "cancelled")
    assert run.error in (None, "expired", "cancelled")
    assert (run.result, run.attempts) == (None, 0)
    assert isinstance(run.due, datetime)


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/times.db"


EDGES = (-1e300, -62_135_596_800.0, -62_135_596_799.0, 0.0, LATEST, 253_402_300_799.0, 253_402_300_800.0, 1e300)


@pytest.mark.parametrize("zone", ZONES)
def test_a_due_date_that_a_local_time_cannot_hold_hides_no_run_from_the_commands(url, zone):
    with local_zone(zone), SkunkQueue("times", url) as queue:
        now = queue.clock.now()
        ids = [f"{n:028x}" for n in range(len(EDGES))]
        queue.put([Envelope(id, "times", "default", due, b"", keep=9e9) for id, due in zip(ids, EDGES, strict=True)])
        queue.store.cancel(ids[:2], now=now)

        assert {row["id"] for row in json.loads(skunq("runs", "--json", "--url", url))} == set(ids)
        assert all(id in skunq("runs", "--columns", "full-id,due,age", "--url", url) for id in ids)
        for id in ids:
            assert json.loads(skunq("show", id, "--json", "--url", url))["id"] == id
            assert id in skunq("show", id, "--url", url)
        assert all(isinstance(run.due, datetime) for run in queue.runs())


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("time", EDGES)
def test_any_time_has_a_datetime_and_a_local_one(time, zone):
    with local_zone(zone):
        moment = as_datetime(time)

        assert as_local(moment) == moment


def test_the_naive_edges_of_the_calendar_have_a_place():
    for zone in ZONES:
        with local_zone(zone):
            assert since_epoch(datetime.min) < 0 < since_epoch(datetime.max)
