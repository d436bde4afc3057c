"""Who comes from another queue writes its words first, and is told ours."""

from __future__ import annotations

import copy
import pickle

import pytest

from skunkqueue import SkunkQueue, WrongCall
from skunkqueue.elsewhere import OF_A_JOB, OF_A_QUEUE, OF_A_RUN


@pytest.fixture
def queue():
    with SkunkQueue("demo", "memory://elsewhere") as queue:
        yield queue


@pytest.fixture
def add(queue):
    @queue.event
    def add(x, y):
        return x + y

    return add


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("delay", r"here it is fire\(...\)"),
        ("apply_async", r"here it is options\(...\)\.fire\(...\)"),
        ("kiq", r"here it is await afire\(...\)"),
        ("enqueue_in", r"here it is fire_at\(when, ...\)"),
    ],
)
def test_a_job_says_what_firing_is_called_here(add, name, ours):
    for fired in (add, add.options(retries=1)):
        with pytest.raises(AttributeError, match=f"has no attribute '{name}'; {ours}"):
            getattr(fired, name)


def test_a_run_says_what_its_verbs_are_called_here(add):
    with pytest.raises(AttributeError, match=r"'Run' object has no attribute 'get'; here it is wait\(timeout\)"):
        add.fire(1, 2).get(timeout=5)


def test_a_queue_says_how_jobs_are_made_here(queue):
    with pytest.raises(AttributeError, match=r"has no attribute 'task'; here it is @queue\.job"):
        queue.task
    with pytest.raises(AttributeError, match=r"@queue\.job above the function, and function\.fire\(...\)"):
        queue.enqueue(len, "")


def test_a_name_that_nobody_uses_gets_no_hint(queue, add):
    for thing in (queue, add, add.fire(1, 2)):
        with pytest.raises(AttributeError, match=r"has no attribute 'flurb'$"):
            thing.flurb
        assert not hasattr(thing, "__wrapped_by_nobody__")


def test_what_looks_for_attributes_still_works(queue, add):
    run = add.fire(1, 2)

    assert pickle.loads(pickle.dumps(run)) == copy.copy(run) == run
    assert copy.copy(add) is add
    assert add.__wrapped__(1, 2) == 3


def test_an_option_of_elsewhere_says_its_name_here(queue):
    for option, meant in (("retry", "retries="), ("ttl", "keep="), ("cron", "every="), ("eta", "job.fire_at")):
        with pytest.raises(WrongCall, match=f"there is no option '{option}'; here it is {meant}"):
            queue.event(**{option: 3})
    with pytest.raises(WrongCall, match="there is no option 'evry'; did you mean 'every'"):
        queue.event(evry=3)
    with pytest.raises(WrongCall, match=r"only for the decorator of a job, @queue.event\(every=...\)"):
        queue.event(print).options(every=3)
    with pytest.raises(WrongCall, match="SkunkQueue takes no 'url'; here it is conn_url"):
        SkunkQueue("demo", url="sqlite:///x.db")
    for place in ("localhost:6379", "127.0.0.1:6379/0", "[::1]:6379", "me:secret@host:6379", "redis:/localhost"):
        with pytest.raises(WrongCall, match="has no :// and so would be the name of a file") as refused:
            SkunkQueue("demo", place)
        assert "secret" not in str(refused.value)
    with pytest.raises(WrongCall, match="event is given a function"):
        queue.event()(42)
    with pytest.raises(WrongCall, match="there is no priority 'urgent'; choose one of high, low, normal"):
        queue.event(priority="urgent")


def test_an_attribute_that_is_missing_inside_a_property_is_the_one_that_is_told(queue, add, monkeypatch):
    run = add.fire(1, 2)
    monkeypatch.setattr(queue.store, "get_brief", lambda ids: ids.missing_in_a_driver)

    for look in (lambda: run.state, lambda: add.state, lambda: run.progress):
        with pytest.raises(AttributeError, match="missing_in_a_driver"):
            look()


def test_no_hint_is_for_a_name_that_is_there(queue, add):
    for thing, names in ((queue, OF_A_QUEUE), (add.options(retries=1), OF_A_JOB), (add.fire(1, 2), OF_A_RUN)):
        assert [name for name in names if hasattr(type(thing), name)] == []
