"""An error about what cannot travel, or is too large, names the global, variable or argument."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from skunkqueue import PayloadError, SkunkQueue, TooLarge
from skunkqueue.codec import encode_value

HEAD = """
import threading
lock = threading.Lock()
small, table = b"x" * 10, b"x" * 3_000_000
def helper(): return lock
def reads(): return table
class Holder:
    def __init__(self): self.fine, self.inner = 1, {"a": [0, lock]}
    def method(self): return self
def around(n):
    local = lock
    return lambda: (n, local)
"""


def script(queue, function):
    """A function of a script as a job; with an ``await``-free body that mentions what it is to mention."""
    made = {"__name__": "__main__"}
    exec(HEAD + function, made)
    return queue.event(made["job"]), made


@pytest.fixture
def queue(tmp_path):
    """On a store of other processes too, so that everything has to travel."""
    with SkunkQueue("culprit", f"sqlite:///{tmp_path}/runs.db", max_payload=1 << 20) as queue:
        yield queue


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("def job(): return small, lock", "the global 'lock', a lock"),
        ("def job():\n  def inner(): return [lock for _ in small]\n  return inner", "the global 'lock', a lock"),
        ("def job(): return small, helper()", "the global 'helper', which needs the global 'lock', a lock"),
        ("def job(): return helper(), job", "the global 'helper', which needs the global 'lock', a lock"),
        ("job = around(1)", "the variable 'local' around it, a lock"),
        ("def job(a=lock): pass", "a default value, a lock"),
        ("def job(*, a=lock): pass", "a default value, a lock"),
        ("holder = Holder()\ndef job(): return holder", "the global 'holder'.inner['a'][1], a lock"),
        ("job = Holder().method", "the object of the method.inner['a'][1], a lock"),
        ("from functools import partial\njob = partial(around, lock)", "the global 'lock', a lock"),
    ],
)
def test_what_of_a_function_cannot_travel_is_named(queue, function, said):
    job, _ = script(queue, function)

    with pytest.raises(PayloadError) as refused:
        job.fire()

    assert str(refused.value).startswith(
        "the function cannot be sent: TypeError: cannot pickle '_thread.lock' object ("
    )
    assert said in str(refused.value)


def test_an_option_that_cannot_travel_is_named(queue):
    lock = threading.Lock()
    job = queue.event(backoff=lambda attempt: lock)(lambda: 1)

    with pytest.raises(PayloadError, match="the backoff function, which needs the variable 'lock' around it, a lock"):
        job.fire()


@pytest.mark.parametrize(
    ("args", "kwargs", "said"),
    [
        ((1, threading.Lock()), {}, "(argument 2, a lock)"),
        ((1,), {"b": {"deep": [1, threading.Lock()]}}, "(argument 'b'['deep'][1], a lock)"),
        ((partial(print, threading.Lock()),), {}, "(argument 1, which needs argument 1, a lock)"),
        (((n for n in range(3)),), {}, "(argument 1, a generator)"),
    ],
)
def test_an_argument_that_cannot_travel_is_named(queue, args, kwargs, said):
    with pytest.raises(PayloadError) as refused:
        queue.event(lambda a, b=None: a).fire(*args, **kwargs)

    assert str(refused.value).endswith(said)


def test_what_of_a_result_cannot_travel_is_named():
    with pytest.raises(PayloadError, match=r"\(\['a'\]\[1\], a lock\)"):
        encode_value({"a": [1, threading.Lock()]})


@pytest.mark.parametrize(
    ("function", "args", "said"),
    [
        ("def job(n): return small, table", (1,), "the largest part of it the global 'table' (3,000,0"),
        ("def job(n): return small, reads()", (1,), "the largest part of it the global 'reads' (3,000,"),
        ("def job(n): return small", (b"y" * 2_000_000,), "the largest part of it argument 1 (2,000,0"),
        (
            "def job(n, other): return small",
            (b"y" * 200, list(range(1_000_000))),
            "the largest part of it argument 2 (",
        ),
    ],
)
def test_what_makes_a_run_too_large_is_named_with_its_size(queue, function, args, said):
    job, _ = script(queue, function)

    with pytest.raises(TooLarge) as refused:
        job.fire(*args)

    assert said in str(refused.value)
    assert "max_payload" in str(refused.value)


def test_an_importable_job_is_not_told_of_its_globals(queue):
    job = queue.event(test_an_importable_job_is_not_told_of_its_globals)
    job._importable = True

    with pytest.raises(TooLarge, match="the largest part of it argument 'queue'"):
        job.fire(queue="x" * 2_000_000)


def test_code_of_somebodys_own_that_raises_hides_no_error(queue):
    class Angry:
        def __repr__(self):
            raise RuntimeError("no")

        __hash__ = object.__hash__

        def __reduce__(self):
            raise KeyError("no")

        def __getattribute__(self, name):
            if name == "__dict__":
                raise RuntimeError("no")
            return object.__getattribute__(self, name)

    with pytest.raises(PayloadError, match="the arguments cannot be sent: KeyError"):
        queue.event(print).fire(Angry(), {Angry(): Angry()})
