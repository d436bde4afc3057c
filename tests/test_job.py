"""Making jobs and firing them: what is in an envelope, what is refused, and what never happens twice."""

from __future__ import annotations

import asyncio
import gc
import inspect
import itertools
import logging
import os
import subprocess
import sys
import textwrap
from collections import namedtuple
from datetime import UTC, datetime, timedelta
from pathlib import Path
from weakref import ref

import front_jobs
import pytest
from hands import Hands, Unreachable, body_of, call_of, head_of

from skunkqueue import (
    Backoff,
    Job,
    JobCancelled,
    NotPlain,
    PartialFire,
    Run,
    Runs,
    SkunkQueue,
    StoreAway,
    StoreRefused,
    TooLarge,
    WrongCall,
)
from skunkqueue import codec as codecs
from skunkqueue.codec import is_pickled, unpickle
from skunkqueue.envelope import DAY, Seal
from skunkqueue.job import MOST_KEPT, Carried, while_importing
from skunkqueue.referred import referred
from skunkqueue.signing import verify_body
from skunkqueue.stub import arguments_of

_names = itertools.count()

Point = namedtuple("Point", "x y")


@pytest.fixture
def far_queue(tmp_path):
    """One on a store that other processes read, to which a function travels."""
    with SkunkQueue("demo", f"sqlite:///{tmp_path}/far.db") as queue:
        yield queue


@pytest.fixture
def queue():
    with SkunkQueue("demo", f"memory://job-{next(_names)}") as queue:
        yield queue


@pytest.fixture
def add(queue):
    @queue.event
    def add(first, second=1):
        return first + second

    return add


def envelopes(queue):
    return [run._record.envelope for run in reversed(queue.runs())]


def only(queue):
    (envelope,) = envelopes(queue)
    return envelope


# -- a job is its function


def test_a_job_is_called_like_its_function():
    assert front_jobs.add(4, second=5) == 9


def test_a_job_keeps_name_docstring_and_signature():
    job = front_jobs.add

    assert (job.__name__, job.__qualname__, job.__module__) == ("add", "add", "front_jobs")
    assert job.__doc__ == "Add two things."
    assert str(inspect.signature(job)) == "(first, second)"
    assert job.__wrapped__ is job.function
    assert isinstance(job, Job)


def test_before_anything_was_fired_there_is_no_state_and_no_result(add):
    assert (add.state, add.result) == (None, None)


def test_state_and_result_are_those_of_the_last_run_fired(queue, add):
    add.fire(1, 2)
    add.fire(4, 5)
    Hands(queue).work(add=add)

    assert (add.state, add.result) == ("succeeded", 9)

    add.options(priority="low").fire(1, 1)
    assert (add.state, add.result) == ("queued", None)


def test_the_runs_of_a_large_firing_are_not_held_by_the_job(queue, add):
    few = ref(add.fire_many([(1, 2)] * MOST_KEPT))
    assert add.last is few()
    assert add.state == "queued"

    many = add.fire_many([(1, 2)] * (MOST_KEPT + 1))
    assert add.last is many
    run = ref(many[0])
    del many
    gc.collect()

    assert (few(), run(), add.last, add.state, add.result) == (None,) * 5


def test_job_is_the_same_decorator_under_its_later_name(queue):
    assert SkunkQueue.job is SkunkQueue.event


# -- what is in the envelope


def test_an_importable_job_travels_by_name_and_unsigned(monkeypatch):
    monkeypatch.setattr("skunkqueue.keys.Keys.load", lambda: pytest.fail("touched the keys"))
    monkeypatch.setenv("SKUNKQUEUE_KEY", "never loaded")
    front_jobs.add.fire_many([(1, 2)])
    run = front_jobs.add.fire(4, second=5)

    body = body_of(run._envelope)
    head = head_of(run._envelope)
    assert (head.name, head.ref) == ("front_jobs:add", "front_jobs:add")
    assert (body.code, body.signature) == (b"", b"")
    assert call_of(run._envelope) == ((4,), {"second": 5})


def test_arguments_that_must_be_pickled_make_the_body_signed():
    run = front_jobs.add.fire(Point(1, 2), 5)

    body = body_of(run._envelope)
    assert body.code == b""
    assert is_pickled(body.call)
    verify_body(body, id=run.id, queue=run._queue.name)
    assert call_of(run._envelope) == ((Point(1, 2), 5), {})


def test_a_job_that_no_import_leads_to_travels_by_value_and_signed(far_queue):
    offset = 40

    @far_queue.event(retry_on=ValueError, give_up_on=KeyError, backoff=lambda attempt: attempt * 2)
    def shift(value):
        return value + offset

    run = shift.fire(2)

    body = body_of(run._envelope)
    verify_body(body, id=run.id, queue=run._queue.name)
    carried = unpickle(body.code)
    assert isinstance(carried, Carried)
    assert carried.function(2) == 42
    assert carried.name == shift.name
    assert (carried.retry_on, carried.give_up_on, carried.delay_of(3)) == ((ValueError,), (KeyError,), 6)


def test_a_job_by_name_says_what_its_worker_must_ask():
    job = front_jobs.add

    assert (job.retry_on, job.give_up_on) == ((front_jobs.NotToday,), (KeyError, ValueError))
    assert job.delay_of(2) == 20


def test_a_job_within_a_class_travels_by_name():
    run = front_jobs.Group.inside.fire(1)

    assert head_of(run._envelope).ref == "front_jobs:Group.inside"
    assert body_of(run._envelope).code == b""


def test_a_function_that_lost_its_name_to_another_travels_by_value(monkeypatch):
    job = front_jobs.queue.event(front_jobs.add.function)

    assert not job.is_importable()
    assert front_jobs.add.is_importable()


def test_what_a_by_value_function_remembers_is_taken_at_each_fire(far_queue):
    box = [1]

    @far_queue.event
    def peek():
        return box[0]

    first = peek.fire()
    box[0] = 2
    second = peek.fire()

    assert [unpickle(body_of(run._envelope).code).function() for run in (first, second)] == [1, 2]


def test_a_name_can_be_given(queue):
    @queue.event(name="sum up")
    def add(first):
        return first

    add.fire(1)

    assert add.name == "sum up"
    assert head_of(only(queue)).name == "sum up"


def test_options_are_sealed_at_fire(queue):
    @queue.event(
        routes="foo",
        retries=3,
        backoff=Backoff(first=timedelta(seconds=2), factor=3, limit=60, jitter=False),
        timeout=timedelta(minutes=1),
        expires=30,
        keep=10 * DAY,
        priority="high",
        at_most_once=True,
    )
    def job():
        pass

    job.fire()

    envelope = only(queue)
    assert head_of(envelope).seal == Seal(3, 2.0, 3.0, 60.0, False, 60.0, True, 10 * DAY)
    assert (envelope.route, envelope.keep, envelope.expires - envelope.due) == ("foo^high", 10 * DAY, 30)


def test_failed_runs_are_kept_a_week_however_short_the_others(queue):
    @queue.event(keep=5)
    def job():
        pass

    job.fire()

    envelope = only(queue)
    assert (envelope.keep, head_of(envelope).seal.keep_failed) == (5, 7 * DAY)


def test_what_is_kept_by_default_is_kept_a_day(add, queue):
    add.fire(1)

    assert only(queue).keep == DAY


def test_the_first_delay_is_enough_of_a_backoff(queue):
    assert queue.event(backoff=5)(len).options_given.first == 5
    assert queue.event(backoff=timedelta(seconds=5))(len).options_given.seal() == Seal(first=5.0)


# -- refused where it is written


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"route": "foo"}, r"there is no option 'route'; did you mean 'routes'\?"),
        ({"retrys": 3}, r"no option 'retrys'; did you mean 'retries'\?"),
        ({"priority": "hihg"}, r"no priority 'hihg'; did you mean 'high'\?"),
        ({"serializer": "json"}, r"no serializer 'json'; choose one of auto, plain"),
        ({"routes": []}, "routes is a name or a list of names"),
        ({"routes": ["a b"]}, "a route is 1 to 100 letters"),
        ({"routes": "foo^high"}, "a route is 1 to 100 letters"),
        ({"routes": 5}, "routes is a name or a list of names"),
        ({"retries": -1}, "retries is a whole number"),
        ({"retries": True}, "retries is a whole number"),
        ({"timeout": "5"}, "timeout is a number of seconds"),
        ({"timeout": 0}, "for no timeout give None"),
        ({"expires": -1}, "expires is a number of seconds"),
        ({"keep": float("nan")}, "keep is a number of seconds"),
        ({"backoff": "1"}, "backoff is a number of seconds, a timedelta or a text"),
        ({"backoff": -1}, "backoff is a number of seconds"),
        ({"at_most_once": 1}, "at_most_once is True or False"),
        ({"retry_on": ["no"]}, "retry_on is an exception type"),
        ({"give_up_on": 5}, "give_up_on is an exception type"),
        ({"name": ""}, "the name of a job"),
        ({"name": 5}, "the name of a job"),
    ],
)
def test_a_wrong_option_is_refused_at_the_decorator(queue, options, said):
    with pytest.raises(WrongCall, match=said):
        queue.event(**options)(len)


def test_a_route_given_in_the_place_of_the_function_is_refused(queue):
    with pytest.raises(WrongCall, match="routes='foo'"):
        queue.event("foo")


@pytest.mark.parametrize("options", [{"unique": 5}, {"unique": ""}, {"nmae": "x"}, {"timeout": "x"}])
def test_a_wrong_option_of_a_single_fire_is_refused(add, options):
    with pytest.raises(WrongCall):
        add.options(**options)


def test_a_wrong_call_fails_as_calling_would(queue):
    @queue.event
    def job(a, b, /, c=3, *, d, e=5):
        pass

    for args, kwargs in [
        ((), {}),
        ((1, 2), {}),
        ((1, 2, 3, 4), {"d": 1}),
        ((1, 2), {"d": 1, "f": 2}),
        ((1,), {"b": 2}),
    ]:
        with pytest.raises(TypeError) as called:
            job(*args, **kwargs)
        with pytest.raises(TypeError) as fired:
            job.fire(*args, **kwargs)
        assert str(fired.value) == str(called.value)

    job.fire(1, 2, d=4)
    job.fire(1, 2, 3, d=4, e=5)


@pytest.mark.parametrize(
    "function",
    [
        lambda *args, **kwargs: None,
        lambda a, *rest, b: None,
        lambda a=1, /, *, b, **others: None,
        lambda: None,
        lambda self, stub, made: None,
    ],
)
@pytest.mark.parametrize("args", [(), (1,), (1, 2, 3)])
@pytest.mark.parametrize("kwargs", [{}, {"b": 1}, {"z": 1}, {"self": 1}])
def test_a_stub_refuses_what_its_function_refuses(function, args, kwargs):
    def outcome(callee):
        try:
            return callee(*args, **kwargs)
        except TypeError as error:
            return str(error)

    assert outcome(arguments_of(function)) == outcome(function)


def test_what_is_not_written_in_python_takes_any_arguments(queue):
    queue.event(name="pow")(pow).fire(2, 3)

    assert call_of(only(queue)) == ((2, 3), {})


def test_a_parameter_may_have_any_name(queue):
    @queue.event
    def job(self=0, when=0, args=0, name=0, job=0):
        pass

    job.fire(self=1, when=2, args=3, name=4, job=5)
    job.fire_at(5, self=1, when=2, args=3, name=4, job=5)
    job.fire_many([job.args(self=1, when=2)])

    assert call_of(envelopes(queue)[1]) == ((), {"self": 1, "when": 2, "args": 3, "name": 4, "job": 5})


def test_plain_refuses_at_fire_what_would_have_to_be_pickled(queue, add):
    with pytest.raises(NotPlain, match="argument 'second' is not plain"):
        add.options(serializer="plain").fire(1, second=Point(1, 2))

    assert queue.runs() == []


def test_too_large_is_refused_before_anything_is_stored():
    with SkunkQueue("demo", "memory://large", max_payload=1000) as queue:
        job = queue.event(len)

        with pytest.raises(TooLarge, match=r"takes 2,\d\d\d bytes where at most 1,000 are sent"):
            job.fire("x" * 2000)
        with pytest.raises(TooLarge):
            job.fire_many([("x",), ("x" * 2000,)])

        assert queue.runs() == []


# -- later


def test_a_job_can_be_fired_for_later(queue, add):
    now = queue.clock.now()
    add.fire_at(timedelta(seconds=60), 1)
    add.fire_at(60, 2)
    add.fire_at(datetime.now(UTC) + timedelta(seconds=60), 3)
    add.fire_at(datetime.now() + timedelta(seconds=60), 4)

    assert [round(envelope.due - now, -1) for envelope in envelopes(queue)] == [60.0] * 4
    assert Hands(queue).take() == []


def test_a_time_in_the_past_means_now(queue, add):
    before = queue.clock.now()
    add.fire_at(datetime(2001, 1, 1), 1)

    assert only(queue).due >= before


@pytest.mark.parametrize("when", ["tomorrow", None, float("nan"), float("inf")])
def test_a_wrong_time_is_refused(add, when):
    with pytest.raises(WrongCall, match="fire_at"):
        add.fire_at(when, 1)


def test_expiry_counts_from_when_it_was_due(queue, add):
    add.options(expires=30).fire_at(60, 1)

    envelope = only(queue)
    assert envelope.expires - envelope.due == 30


# -- options for one fire


def test_options_change_what_they_name_and_leave_the_rest(queue):
    @queue.event(routes="foo", timeout=5, retries=2)
    def job():
        pass

    job.options(timeout=7, routes=["bar"]).fire()
    job.fire()

    changed, plain = envelopes(queue)
    assert (changed.route, head_of(changed).seal.timeout, head_of(changed).seal.retries) == ("bar", 7, 2)
    assert (plain.route, head_of(plain).seal.timeout) == ("foo", 5)


def test_the_same_options_are_worked_out_once(add):
    assert add.options(timeout=5)._plan is add.options(timeout=5)._plan
    assert add.options(unique="a")._plan is add._plan
    for number in range(1, 300):
        add.options(timeout=number)
    assert len(add._prepared) <= 100


def test_options_that_are_equal_but_not_the_same_are_not_mixed_up(queue, add):
    add.options(at_most_once=False).fire(1)

    with pytest.raises(WrongCall, match="at_most_once is True or False"):
        add.options(at_most_once=0)


def test_a_user_backoff_of_a_single_fire_travels_only_by_value(queue, add):
    add.options(backoff=lambda attempt: 7, retry_on=KeyError).fire(1)

    carried = referred(body_of(only(queue)).code)
    assert (carried.delay_of(1), carried.retry_on) == (7, (KeyError,))


def test_a_single_fire_of_an_importable_job_with_options_that_need_code_travels_by_value():
    run = front_jobs.add.options(retry_on=OSError).fire(1, 2)

    assert referred(body_of(run._envelope).code).retry_on == (OSError,)
    assert body_of(front_jobs.add.options(timeout=5).fire(1, 2)._envelope).code == b""


def test_a_unique_key_gives_the_open_run(queue, add):
    first = add.options(unique="user-7").fire(1)
    again = add.options(unique="user-7").fire(2)
    other = add.options(unique="user-8").fire(3)

    assert again.id == first.id != other.id
    assert len(queue.runs()) == 2
    assert again.due is not None

    Hands(queue).work(add=add)
    assert (again.result, again.wait(0)) == (2, 2)
    assert add.options(unique="user-7").fire(4).id != first.id


def test_a_unique_key_is_one_per_job(queue, add):
    @queue.event
    def other(value):
        return value

    assert add.options(unique="k").fire(1).id != other.options(unique="k").fire(1).id


def test_via_is_for_stores_that_have_transactions(queue, add):
    with pytest.raises(WrongCall, match="via= is for stores with transactions"):
        add.options(via=object()).fire(1)


def test_via_reaches_a_store_that_takes_it(queue, add, monkeypatch):
    seen = []

    def put(self, envelopes, *, via=None):
        seen.append(via)
        return [envelope.id for envelope in envelopes]

    monkeypatch.setattr(type(queue.store), "put", put)
    monkeypatch.setattr(type(queue.store), "takes_via", "a pipe")
    add.options(via="a pipe").fire(1)
    add.options(via="a pipe").fire_many([(1,), (2,)])

    assert seen == ["a pipe", "a pipe"]


# -- many


def test_many_can_be_fired_at_once(queue, add):
    runs = add.fire_many([(1, 2), [3], add.args(4, second=5), [6]])

    assert isinstance(runs, Runs)
    Hands(queue).work(add=add)
    assert runs.wait(0) == [3, 4, 9, 7] == add.result


def test_many_go_in_batches_and_in_order(queue, add):
    queue.connection.store = store = Unreachable(queue.store)
    runs = add.fire_many((number,) for number in range(1200))

    assert store.calls.count("put") == 3
    assert [run.id for run in runs] == sorted(run.id for run in runs)
    assert [call_of(claim.envelope)[0][0] for claim in Hands(queue).take(2000)] == list(range(1200))


def test_firing_none_is_an_empty_handle(add):
    assert list(add.fire_many([])) == []


@pytest.mark.parametrize("call", [4, "45", {"first": 1}, None])
def test_a_call_that_is_no_tuple_is_refused(queue, add, call):
    with pytest.raises(WrongCall, match="a tuple of its arguments"):
        add.fire_many([(1,), call])

    assert queue.runs() == []


def test_a_wrong_call_among_many_stores_none(queue, add):
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        add.fire_many([(1,), ()])

    assert queue.runs() == []


def failing_at(queue, monkeypatch, number, error):
    """The store's put works so many times, then raises."""
    put, left = queue.store.put, [number]

    def sometimes(envelopes):
        if left[0] == 0:
            raise error
        left[0] -= 1
        return put(envelopes)

    monkeypatch.setattr(queue.store, "put", sometimes)


def test_a_partial_failure_names_what_was_accepted_and_what_is_missing(queue, add, monkeypatch):
    failing_at(queue, monkeypatch, 1, StoreAway("gone"))

    with pytest.raises(PartialFire, match="500 runs were accepted") as caught:
        add.fire_many((number,) for number in range(1200))

    accepted, missing = caught.value.accepted, caught.value.missing
    assert (len(accepted), len(missing)) == (500, 700)
    assert {run.id for run in accepted} == {run.id for run in queue.runs(limit=None)}
    monkeypatch.undo()
    missing.fire()
    assert len(queue.runs(limit=None)) == 1200


def test_when_none_of_many_was_accepted_the_error_is_the_stores(queue, add, monkeypatch):
    failing_at(queue, monkeypatch, 0, StoreAway("gone"))
    with pytest.raises(StoreAway) as caught:
        add.fire_many((number,) for number in range(1200))
    assert len(caught.value.runs) == 1200

    monkeypatch.undo()
    failing_at(queue, monkeypatch, 0, StoreRefused("full"))
    with pytest.raises(StoreRefused):
        add.fire_many([(1,)])


# -- from a coroutine


def test_firing_can_be_awaited(queue, add):
    async def fire():
        return await add.afire(1, 2), await add.options(priority="high").afire_at(60, 3)

    now, later = asyncio.run(fire())

    assert isinstance(now, Run)
    assert (now.state, later.state) == ("queued", "scheduled")


# -- broadcast


@pytest.fixture
def everywhere():
    with SkunkQueue("demo", f"memory://job-{next(_names)}", queue_type="broadcast") as queue:
        yield queue


def test_a_broadcast_reaches_every_worker_alive_on_the_route(everywhere):
    @everywhere.event(routes=["foo", "bar"])
    def say(what):
        return what

    workers = [
        Hands(everywhere, *routes, name=name) for name, *routes in (("a", "foo"), ("b", "foo", "bar"), ("c", "baz"))
    ]
    stranger = SkunkQueue("other", everywhere.url)
    for hands in (*workers, Hands(stranger, "foo", name="d")):
        hands.beat()

    runs = say.fire("hello")
    for hands in workers:
        hands.work(say=say)

    assert isinstance(runs, Runs)
    assert [run._envelope.route for run in runs] == ["@a", "@b"]
    assert runs.wait(0) == ["hello", "hello"]


@pytest.mark.parametrize("how", ["fire", "fire_at", "afire", "afire_at", "fire_many"])
def test_a_broadcast_reaches_them_however_it_is_fired(everywhere, how):
    job = everywhere.event(routes="foo")(len)
    for name in "ab":
        Hands(everywhere, "foo", name=name).beat()
    given = {"fire_at": (0, "hello"), "afire_at": (0, "hello"), "fire_many": ([("hello",)],)}

    runs = getattr(job, how)(*given.get(how, ("hello",)))
    runs = asyncio.run(runs) if how.startswith("a") else runs

    assert [run._envelope.route for run in runs] == ["@a", "@b"]


def test_a_broadcast_to_nobody_is_an_empty_handle_and_a_warning(everywhere, caplog):
    job = everywhere.event(routes="foo")(len)

    with caplog.at_level(logging.WARNING, "skunkqueue"):
        runs = job.fire([])

    assert (list(runs), runs.wait(0)) == ([], [])
    assert "nobody is alive on foo of queue demo" in caplog.text
    assert everywhere.runs() == []


def test_a_worker_that_says_nonsense_of_itself_is_not_reached(everywhere):
    for number, about in enumerate(["", "[]", "{}", '{"queue": "demo"}', '{"queue": "demo", "routes": 5}', "\xff"]):
        everywhere.store.beat(f"w{number}", about, until=everywhere.clock.now() + 60)

    assert everywhere.alive_on(["foo"]) == []


# -- while a worker imports


def test_a_fire_while_a_worker_imports_is_inert(queue, add, caplog):
    with while_importing(), caplog.at_level(logging.WARNING, "skunkqueue"):
        run, many = add.fire(1), add.fire_many([(1,), (2,)])

    assert "had no effect" in caplog.text
    assert queue.runs() == []
    for one in (run, *many):
        assert (one.state, one.result, one.cancel()) == ("cancelled", None, False)
        with pytest.raises(JobCancelled, match="inert"):
            one.wait(0)
    assert add.fire(1).state == "queued"


@pytest.mark.parametrize("url", ["memory://surrogate", "sqlite:///{}/s.db", "redis://nowhere.invalid:1"])
@pytest.mark.parametrize("key", ["file-\udcff", "\ud800", "a\udfffb"])
def test_a_unique_key_that_no_store_can_hold_is_refused_where_it_is_given(tmp_path, url, key):
    job = SkunkQueue("demo", url.format(tmp_path)).event(name="job")(len)

    with pytest.raises(WrongCall, match="unique holds a lone surrogate"):
        job.options(unique=key)


def test_an_inert_fire_does_not_touch_the_store(tmp_path):
    queue = SkunkQueue("demo", "redis://nowhere.invalid:1")
    job = queue.event(routes=["a", "b"])(len)

    with while_importing():
        assert len(job.fire("x")) == 2


# -- real scripts

FIRES = """
from skunkqueue import SkunkQueue
from datetime import timedelta
import os, sys

queue = SkunkQueue("demo", os.environ["URL"])
LIMIT = 3

class Odd(Exception):
    pass

class Thing:
    def __init__(self, value):
        self.value = value

def helper(value):
    return Thing(value + 1)

@queue.event(routes=["foo"], retry_on=Odd, backoff=lambda attempt: attempt + LIMIT)
def count(value, seen=None):
    if value == "odd":
        raise Odd
    if value < LIMIT:
        count.fire(helper(value).value)
    other.options(priority="high").fire(value)
    return value

@queue.event
def other(value):
    return value

if len(sys.argv) > 1:
    from skunkqueue.codec import pickle_function, unpickle
    sys.stdout.buffer.write(pickle_function({"count": count, "other": other.fire, "odd": Odd}))
else:
    print(count.fire(1).id, count.name, other.name)
"""

READS = """
import os, sys
from skunkqueue.codec import unpickle, decode_call
from skunkqueue.signing import verify_body
from skunkqueue.envelope import open_body
from skunkqueue import SkunkQueue, Job

queue = SkunkQueue("demo", os.environ["URL"])
(run,) = queue.runs()
body = open_body(run._record.envelope.body)
verify_body(body, id=run.id, queue="demo")
carried = unpickle(body.code)
assert carried.delay_of(1) == 4
args, kwargs = decode_call(body.call)
assert carried.function(*args, **kwargs) == 1
try:
    carried.function("odd")
except carried.retry_on:
    pass
names = [unpickle(open_body(r._record.envelope.body).code).name for r in queue.runs(route="foo")]
assert names == ["count", "count"], names
high = queue.runs(route="default")
assert [r._record.envelope.route for r in high] == ["default^high"]
last = unpickle(open_body(queue.runs(route="foo")[0]._record.envelope.body).code)
assert last.function(*decode_call(open_body(queue.runs(route="foo")[0]._record.envelope.body).call)[0]) == 2
assert len(queue.runs()) == 5, queue.runs()
"""


def run_python(*args, **env):
    path = os.pathsep.join([str(Path(codecs.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-W", "error", *args],
        env={**os.environ, "PYTHONPATH": path, **env},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_a_job_of_a_script_runs_in_a_process_that_never_heard_of_it_and_fires_on(tmp_path):
    pytest.importorskip("skunkqueue.persistence.sqlite")
    (tmp_path / "script.py").write_text(FIRES)
    (tmp_path / "elsewhere").mkdir()
    url = f"sqlite:///{tmp_path}/runs.db"

    said = run_python(str(tmp_path / "script.py"), URL=url).decode().split()
    run_python("-c", READS, URL=url)

    assert said[1:] == ["count", "other"]


def test_jobs_that_mention_each_other_survive_a_pickle_of_their_own(tmp_path):
    (tmp_path / "script.py").write_text(FIRES)
    pickled = run_python(str(tmp_path / "script.py"), "pickle", URL="memory://x")
    read = """
        import sys
        from skunkqueue.codec import unpickle
        got = unpickle(sys.stdin.buffer.read())
        count = got["count"]
        assert count.function.__globals__["count"] is count
        assert count.function.__globals__["Odd"] is got["odd"] is count.retry_on[0]
        assert count(3) == 3
        assert count.fire(1).state == "queued"
        got["other"](5)
        assert [run._record.envelope.route for run in count.queue.runs()] == ["default", "foo", "default^high"]
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(read)],
        input=pickled,
        env={**os.environ, "PYTHONPATH": str(Path(codecs.__file__).parents[1])},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()


def test_an_importable_job_pickles_as_its_name():
    assert unpickle(codecs.pickle_function(front_jobs.add)) is front_jobs.add
    assert b"front_jobs" in codecs.pickle_function(front_jobs.add)


@pytest.mark.slow
def test_the_types_refuse_a_wrong_call(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "typed.py").write_text(
        textwrap.dedent(
            """
            from typing import assert_type
            from skunkqueue.job import Job
            from skunkqueue.queue import SkunkQueue
            from skunkqueue.run import Run, Runs

            queue = SkunkQueue("demo")

            @queue.event
            def bare(first: int) -> str:
                return ""

            @queue.event(routes=["foo"], retries=3)
            def add(first: int, second: int = 1) -> str:
                return ""

            @queue.job
            async def wait(first: int) -> str:
                return ""

            class Report:
                @queue.event
                def build(self, pages: int) -> str:
                    return ""

                @queue.event
                async def send(self, to: str) -> int:
                    return 1

            async def methods(report: Report) -> None:
                assert_type(report.build(1), str)
                assert_type(report.build.fire(1), Run[str])
                assert_type(report.build.options(timeout=5).fire_at(5, 1).wait(), str)
                assert_type(Report.build.fire(report, 1), Run[str])
                assert_type(await report.send("me"), int)
                assert_type(await report.send.fire("me"), int)
                report.build.fire("x")  # refused
                Report.build.fire(report, "x")  # refused
                report.send.fire(1)  # refused

            async def right() -> None:
                assert_type(add.fire(1, second=2), Run[str])
                assert_type(add.fire_at(5, 1).wait(), str)
                assert_type(add.fire_many([(1, 2), add.args(1)]), Runs[str])
                assert_type(add(1), str)
                assert_type(await add.options(timeout=5, unique="x").afire(1), Run[str])
                assert_type(await add.fire(1), str)
                assert_type(wait.fire(1).wait(), str)
                assert_type(await wait(1), str)

            def wrong() -> None:
                bare.fire("one")  # refused
                add.fire("one")  # refused
                add.fire()  # refused
                add.fire_at(5, "x")  # refused
                add.args(1, 2, 3)  # refused
                add.options(timeout=5).fire("x")  # refused
                add.options(timeuot=5)  # refused
                queue.event(timeuot=5)  # refused
                wait.fire("x")  # refused
            """
        )
    )
    source = (tmp_path / "typed.py").read_text().splitlines()
    expected = [number for number, line in enumerate(source, 1) if line.endswith("# refused")]
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--follow-imports=silent", "typed.py"]
    env = {**os.environ, "MYPYPATH": str(Path(codecs.__file__).parents[1])}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=110)

    refused = [int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error:" in line]
    assert refused == expected, done.stdout + done.stderr


def test_a_run_that_is_scheduled_can_be_promoted():
    queue = SkunkQueue("demo", "memory://promoting")
    add = queue.event(adding)
    run, other, ready = add.fire_at(3600, 1), add.fire_at(3600, 2), add.fire(3)
    due = run.due

    assert (run.promote(), run.promote(), ready.promote()) == (True, False, False)
    assert (queue.promote(other.id), queue.promote(Runs([run, other, ready]))) == (True, False)
    assert (run.state, run.due, other.state) == ("queued", due, "queued")
    with pytest.raises(WrongCall, match="promote is given a run or its id"):
        queue.promote(7)


def adding(n):
    return n + 1
