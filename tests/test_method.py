"""Jobs that are methods, partials and objects: what they are called with, what is sent, and how they are found."""

from __future__ import annotations

import asyncio
import functools
import pickle

import method_jobs
import pytest
from hands import body_of, call_of, head_of
from method_jobs import Longer, Report, fixed, queue

from skunkqueue import Job, WorkerPool, WrongCall
from skunkqueue.codec import pickle_function, unpickle
from skunkqueue.method import BoundJob

report = Report("may")

DEFINED = {
    "method": (report.build, "may: 3"),
    "async method": (report.build_async, "may: 3"),
    "inherited method": (Longer("june").build, "june: 3"),
    "method of an inner class": (Report.Inner().build, "inner: 3"),
    "class method": (Report.of_class, "Report: 3"),
    "class method of an object": (report.of_class, "Report: 3"),
    "inherited class method": (Longer.of_class, "Longer: 3"),
    "static method": (Report.static, "static: 3"),
    "static method of an object": (report.static, "static: 3"),
    "staticmethod around a job": (report.static_outside, "static: 3"),
    "method in a wrapper": (report.cached, "may: 3"),
}
"""Jobs that were decorated in a class body: by reference."""

MADE = {
    "bound method": (report.plain, "may: 3"),
    "bound class method": (Report.plain_of_class, "Report: 3"),
    "static method": (Report.plain_static, "static: 3"),
    "partial": (functools.partial(Report.plain, report), "may: 3"),
    "partial of a method": (functools.partial(report.plain), "may: 3"),
    "partial by name": (functools.partial(report.plain, pages=3), "may: 3"),
    "object": (report, "called may: 3"),
}
"""Things that can be called, which ``queue.event`` was given: by value."""


def run(fired):
    with WorkerPool(queue, in_process=True) as pool:
        pool.run_until_idle()
    return fired.wait(1)


@pytest.mark.parametrize("job, result", DEFINED.values(), ids=DEFINED)
def test_a_job_of_a_class_body_is_fired_as_it_is_called(job, result):
    fired = job.fire(3)

    body, head = body_of(fired._envelope), head_of(fired._envelope)
    assert body.code == b""
    assert head.ref.startswith("method_jobs:Report.")
    assert run(fired) == result


@pytest.mark.parametrize("job, result", DEFINED.values(), ids=DEFINED)
def test_each_way_of_firing_sends_the_object_along(job, result):
    assert run(job.fire_at(0, 3)) == result
    assert run(job.fire_many([(3,), job.args(3), job.args(pages=3)])) == [result] * 3
    assert run(job.options(priority="high").fire(3)) == result
    assert run(job.options(priority="high").fire_many([job.args(pages=3)])) == [result]


@pytest.mark.parametrize("job", [job for job, _ in DEFINED.values()], ids=DEFINED)
def test_a_job_of_a_class_body_pickles_as_its_name(job):
    copy = unpickle(pickle_function(job))

    assert getattr(copy, "job", copy) is getattr(job, "job", job)
    assert getattr(copy, "__self__", None) == getattr(job, "__self__", None)
    assert pickle.loads(pickle.dumps(job)) is not None


def test_an_async_method_is_fired_and_awaited_as_its_function():
    async def main():
        fired = [await report.build_async.afire(3), await report.build_async.afire_at(0, pages=3)]
        return [await report.build_async(3), *fired]

    called, *fired = asyncio.run(main())

    assert [called, *map(run, fired)] == ["may: 3"] * 3


def test_the_class_has_the_job_itself():
    assert isinstance(Report.build, Job)
    assert isinstance(report.build, BoundJob)
    assert report.build.job is Report.build
    assert Report.build.is_importable()
    assert Report.build(report, 3) == report.build(3) == "may: 3"
    assert report.build.name == "method_jobs:Report.build"
    assert call_of(Report.build.fire(report, 3)._envelope) == ((report, 3), {})
    assert report.build == report.build
    assert report.build != Report("may").build
    assert len({report.build, report.build}) == 1


def test_the_last_run_is_that_of_the_job():
    fired = report.build.fire(3)
    run(fired)

    assert (report.build.state, report.build.result) == ("succeeded", "may: 3")
    assert Report.build.last is fired


@pytest.mark.parametrize("function, result", MADE.values(), ids=MADE)
def test_whatever_can_be_called_can_be_fired(function, result, request):
    job = queue.event(name=request.node.name)(function)

    assert job(pages=3) == result
    fired = job.fire(pages=3)
    assert body_of(fired._envelope).code
    assert run(fired) == result


WRONG_CALLS = [((1, 2, 3), {}), ((1,), {"pages": 1}), ((1,), {"color": 1}), ((), {"color": 1})]


@pytest.mark.parametrize("function", [function for function, _ in MADE.values()], ids=MADE)
def test_a_wrong_call_of_what_was_made_a_job_fails_as_calling_would(function, request):
    job = queue.event(name=request.node.name)(function)
    for args, kwargs in WRONG_CALLS:
        check_fails_alike(function, job, args, kwargs)


CHECKED = {name: job for name, (job, _) in DEFINED.items() if name != "method in a wrapper"}
"""All whose arguments can be known before the call."""


@pytest.mark.parametrize("job", CHECKED.values(), ids=CHECKED)
def test_a_wrong_call_of_a_method_fails_as_calling_would(job):
    for args, kwargs in WRONG_CALLS:
        check_fails_alike(job, job, args, kwargs)


def check_fails_alike(function, job, args, kwargs):
    with pytest.raises(TypeError) as called:
        function(*args, **kwargs)
    with pytest.raises(TypeError) as fired:
        job.fire(*args, **kwargs)
    with pytest.raises(TypeError):
        job.fire_many([job.args(*args, **kwargs)])
    assert str(fired.value) == str(called.value)


def test_a_method_that_its_name_leads_to_travels_by_reference():
    fired = fixed.send.fire(3)

    assert body_of(fired._envelope).code == body_of(fired._envelope).signature == b""
    assert run(fired) == "fixed: 3 by True"


def test_an_object_that_holds_its_own_job_travels():
    class Mailer:
        def __init__(self):
            self.sent = queue.event(name="mailer")(self.send)

        def send(self, pages):
            return f"sent {pages}, {type(self.sent).__name__}"

    assert run(Mailer().sent.fire(3)) == "sent 3, Job"


def test_what_is_neither_a_function_nor_a_method_is_refused():
    with pytest.raises(WrongCall, match="event is given a function"):
        queue.event(property(lambda self: 1))


def test_jobs_in_attributes_of_objects_and_modules_do_not_bind():
    report.own = method_jobs.fixed.send

    assert report.own.fire(3)._envelope is not None
    assert isinstance(report.own, Job)
