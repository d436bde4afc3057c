"""Everything public that is a value survives being pickled and copied: for process pools, caches, results of jobs."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle

import pytest

from skunkqueue import Adaptive, Job, Limit, Run, Runs, Schedule, SkunkQueue
from skunkqueue.envelope import Envelope, Record, State
from skunkqueue.policy import Backoff
from skunkqueue.schedules.declared import definition_of, rules_of
from skunkqueue.schedules.step import Memory
from skunkqueue.worker import Hook, LogEntry, Settings, ShownResult

PACKAGES = ("skunkqueue", "skunkqueue.worker", "skunkqueue.spool", "skunkqueue.testing")

queue = SkunkQueue("copies", "memory://copies")


@queue.event(routes=["foo", "bar"], retries=2)
def spread(value):
    return value


def run(id="1"):
    envelope = Envelope(id, "copies", "foo", 1.0, b"body")
    return Run(queue, id, envelope, Record(envelope, State.SUCCEEDED, 9.0, value=b"m\x05"))


def schedule():
    queue = SkunkQueue("copies", "memory://copies")
    definition = definition_of(queue.event(len, name="len"), "x", rules_of({"every": 60}), ("abc",), {})
    return Schedule(queue, definition, Memory(1e9), None, {})


VALUES = {
    "Adaptive": lambda: Adaptive(60.0, 3600.0, 3.0),
    "Schedule": schedule,
    "Backoff": lambda: Backoff(2, 3.5, 60, jitter=False),
    "Hook": lambda: Hook("module:function", b"data", (3,)),
    "Job": lambda: spread,
    "Limit": lambda: Limit(5, "openai", per=60, burst=2),
    "LogEntry": lambda: LogEntry("finished", run="1", text="a sentence"),
    "Run": run,
    "Runs": lambda: Runs([run("1"), run("2")]),
    "Settings": lambda: Settings("pool", "copies", ("foo",), concurrency=2),
    "ShownResult": lambda: ShownResult([1], "one"),
    "SkunkQueue": lambda: SkunkQueue("copies", "memory://copies", queue_type="broadcast", max_payload=77),
    "default_cfg": lambda: importlib.import_module("skunkqueue").default_cfg,
}
"""What is to survive, by its public name; errors are made from their class."""

NO_VALUES = {"Hermes", "JobMixin", "Log", "Pool", "StoreContract", "WorkerPool"}
"""Public classes whose objects are not values: they hold threads, files or processes."""


def public():
    return {
        name: getattr(importlib.import_module(p), name) for p in PACKAGES for name in importlib.import_module(p).__all__
    }


PUBLIC = public()
ERRORS = {name for name, value in PUBLIC.items() if isinstance(value, type) and issubclass(value, BaseException)}


def error(kind):
    """An error of this kind with something in every attribute that its class or its arguments name."""
    named = list(inspect.signature(kind.__init__).parameters)[1:]
    if inspect.isfunction(kind.__init__):
        made = kind(**{name: f"the {name}" if name != "after" else 2.5 for name in named})
    else:
        made = kind("the message")
    for attribute in {name for each in kind.__mro__ for name in inspect.get_annotations(each)}:
        setattr(made, attribute, {"1": "full"} if attribute == "refused" else Runs([run()]))
    made.add_note("a note")
    return made


def told(value):
    """What a value says of itself, to be compared."""
    if isinstance(value, BaseException):
        return type(value), value.args, str(value), repr(value), vars(value)
    if isinstance(value, Run):
        return type(value), value, hash(value), value.state, value.result, value._envelope, value._record
    if isinstance(value, Runs):
        return type(value), value, [told(each) for each in value]
    if isinstance(value, SkunkQueue):
        return type(value), value.name, value.full_url, value.queue_type, value.max_payload
    return type(value), value, repr(value)


WAYS = {
    **{
        f"pickle {n}": lambda value, n=n: pickle.loads(pickle.dumps(value, n))
        for n in range(pickle.HIGHEST_PROTOCOL + 1)
    },
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


def test_every_public_name_is_a_value_or_is_known_to_be_none():
    known = ERRORS | set(VALUES) | NO_VALUES
    plain = {name for name, value in PUBLIC.items() if inspect.isfunction(value) or isinstance(value, int)}

    assert set(PUBLIC) - plain - known == set()
    assert set(VALUES) | NO_VALUES <= set(PUBLIC)
    assert Job.__name__ in VALUES


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", sorted(ERRORS | set(VALUES)))
def test_it_survives(name, way):
    value = VALUES[name]() if name in VALUES else error(PUBLIC[name])

    back = WAYS[way](value)

    assert told(back) == told(value)


@pytest.mark.parametrize("way", WAYS)
def test_a_handle_survives_whatever_its_value_is(way):
    handle = run()
    handle._value = (lambda: "no pickle",)  # as read from a pickled result

    assert WAYS[way](handle) == handle


def test_all_handles_of_a_run_are_equal_and_hash_alike():
    fired = spread.options(routes="foo").fire(1)
    others = [queue.runs(limit=1)[0], pickle.loads(pickle.dumps(fired)), copy.copy(fired)]

    assert {fired, *others} == {fired}
    assert fired != spread.options(routes="foo").fire(1)
    assert fired != Run(SkunkQueue("other", "memory://copies"), fired.id)
    assert fired != fired.id
    assert Runs([fired]) == Runs(others[:1])
    assert hash(Runs([fired])) == hash(Runs(others[:1]))
    assert Runs([fired]) != [fired]
