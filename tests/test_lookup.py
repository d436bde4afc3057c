"""A name from a store makes a worker import a module, and runs nothing else on the way to what it leads to."""

from __future__ import annotations

import sys
import types

import pytest

from skunkqueue import Job, NotAJob, SkunkQueue, UnknownJob
from skunkqueue.worker.child.resolve import by_name, by_reference, known_jobs

queue = SkunkQueue("lookup", "memory://lookup")
executed = []


def execute(*_):
    executed.append("executed")
    return queue.event(len)


class Meta(type):
    meta = property(execute)
    __getattr__ = execute

    def __instancecheck__(cls, instance):
        return execute()


class WithMeta(metaclass=Meta):
    pass


class Descriptor:
    __get__ = execute


class Holder:
    danger = property(execute)
    described = Descriptor()

    @queue.event
    def build(self):
        pass

    class Inner:
        @staticmethod
        @queue.event
        def build():
            pass


class Catcher:
    __getattr__ = execute


class Greedy:
    __getattribute__ = execute


class Proxy:
    """It says that it is a Job, as the proxies of web frameworks say that they are what they stand for."""

    @property
    def __class__(self):
        execute()
        return Job


@pytest.fixture
def shop():
    module = types.ModuleType("shop")
    module.Holder, module.WithMeta = Holder, WithMeta
    module.holder, module.catcher, module.greedy, module.proxy = Holder(), Catcher(), Greedy(), Proxy()
    module.__getattr__ = execute
    module.job = queue.event(name="shop job")(len)
    sys.modules["shop"] = module
    executed.clear()
    yield module
    del sys.modules["shop"]


@pytest.mark.parametrize(
    "name",
    [
        "holder.danger", "holder.described", "Holder.danger", "Holder.described", "Holder.danger.fget",
        "Holder.nothing", "WithMeta.meta", "WithMeta.nothing", "WithMeta", "catcher.anything",
        "greedy.anything", "greedy", "proxy", "nothing", "__getattr__", "holder.build.queue", "job.last", "job.state",
        "holder.__class__",
    ],
)  # fmt: skip
def test_nothing_is_run_to_find_what_is_not_a_job(shop, name):
    with pytest.raises((UnknownJob, NotAJob)):
        by_reference(f"shop:{name}")

    assert executed == []


def test_jobs_are_found_in_modules_classes_and_objects(shop):
    assert by_reference("shop:job") is shop.job
    assert by_reference("shop:Holder.build") is Holder.build
    assert by_reference("shop:holder.build") is Holder.build
    assert by_reference("shop:Holder.Inner.build") is Holder.Inner.build
    assert executed == []


def test_nothing_is_run_to_list_the_jobs_there_are(shop):
    assert shop.job in known_jobs()
    assert by_name("shop job") is shop.job
    with pytest.raises(UnknownJob):
        by_name("no such job")

    assert executed == []


def test_nothing_is_run_to_know_whether_a_job_can_be_imported(shop):
    def work():
        pass

    for name in ("nothing", "greedy.job", "catcher.job", "holder.danger", "WithMeta.meta"):
        work.__module__, work.__qualname__ = "shop", name
        assert not queue.event(work).is_importable()

    assert executed == []
