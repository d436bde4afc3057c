"""Jobs as classes: their options, their objects, calls in sequence, and workers that import them."""

from __future__ import annotations

import os

import pytest
from class_jobs import Note, Total, Where
from hands import body_of, head_of
from pools import PoolProcess

from skunkqueue import JobMixin, SkunkQueue, WrongCall
from skunkqueue.envelope import State
from skunkqueue.testing import drain


@pytest.fixture
def queue(tmp_path):
    with SkunkQueue("demo", f"sqlite:///{tmp_path}/runs.db") as queue:
        yield queue


def test_a_class_is_fired_by_adding_a_call(queue):
    same = queue
    queue += Total()(1, 2, 3)

    drain(queue, "foo")

    assert queue is same
    assert queue.last.result == 6
    envelope = queue.last._record.envelope
    assert (envelope.route, head_of(envelope).seal.retries) == ("foo", 2)
    assert (head_of(envelope).ref, body_of(envelope).code) == ("class_jobs:Total.job", b"")


def test_an_object_with_attributes_travels_along(queue):
    run = queue.add(Note("ann")("hello"))

    drain(queue)

    assert run.result == "ann: hello"
    assert head_of(run._record.envelope).name == "note"
    assert run._record.envelope.keep == 7200


def test_calls_in_sequence_run_one_after_the_other(queue):
    queue += Total()(1) & Note("ann")("one") & Note("bob")("two")
    last = queue.last
    assert last.state == State.WAITING

    drain(queue, "foo", "default")

    assert last.result == "bob: two"
    assert last.after[0].result == "ann: one"
    assert last.after[0].after[0].result == 1


def test_what_follows_a_failure_is_cancelled(queue):
    class Bad(JobMixin):
        def work(self):
            raise ValueError("no")

    run = queue.add(Bad()() & Note("ann")("one"))

    drain(queue)

    assert run.state == State.CANCELLED
    assert "ValueError: no" in run.error


def test_workers_import_a_class(queue, tmp_path):
    with PoolProcess(tmp_path, queue.url, "foo", "default"):
        assert queue.add(Where()()).wait(30) != os.getpid()
        assert queue.add(Total()(4, 5) & Note("ann")("there")).wait(30) == "ann: there"


def test_a_class_of_a_function_travels_by_value(queue, tmp_path):
    class Local(JobMixin):
        def work(self, number):
            return number + 1

    with PoolProcess(tmp_path, queue.url, "default"):
        assert queue.add(Local()(1)).wait(30) == 2


def test_what_is_wrong_is_said(queue):
    with pytest.raises(TypeError):
        Note("ann")()
    with pytest.raises(WrongCall, match="what is added to a queue"):
        queue += Total
    with pytest.raises(WrongCall, match="through a queue"):
        Total.job.fire(1)
    with pytest.raises(TypeError):
        Total()(1) & 5
    with pytest.raises(WrongCall, match="retries is a whole number"):

        class Wrong(JobMixin):
            retries = -1
