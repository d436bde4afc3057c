"""From an envelope's body to the function to call: by reference or by value, never by surprise."""

from __future__ import annotations

import importlib
import sys
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from types import FunctionType
from typing import Any, TypeAlias

from skunkqueue import codec
from skunkqueue.clock import ticks
from skunkqueue.envelope import PYTHON, VERSION, Body, Head, open_head
from skunkqueue.errors import NotAJob, UnknownJob
from skunkqueue.job import Carried, Job, while_importing
from skunkqueue.lookup import NOTHING, follow, is_a
from skunkqueue.referred import MARK, referred
from skunkqueue.signing import verify_body

MOST_HEADS = 1000
"""Heads whose job is remembered: every other set of sealed options makes another head."""
SOONEST = 0.1
LATEST = 15.0
AGAIN = 10
"""A module that could not be imported is tried again after so many times what that took; at least, and at most (s)."""
MOST_CODES = 256
"""Functions that came by value and are kept unpickled."""

Callee: TypeAlias = Job[Any, Any] | Carried


def is_async(function: Any) -> bool:
    """Whether calling it gives a coroutine, as far as the function itself tells."""
    code = getattr(function, "__code__", None)
    if code is None:
        return _is_async_object(function)
    return bool(getattr(code, "co_flags", 0) & 0x80)  # inspect.CO_COROUTINE


def _is_async_object(function: Any) -> bool:
    """The same for a partial, or an object whose ``__call__`` may be async."""
    if isinstance(function, partial):
        return is_async(function.func)
    call = getattr(type(function), "__call__", None)  # noqa: B004 - not whether it can be called
    return type(call) is FunctionType and is_async(call)


class Resolver:
    """Finds the jobs of a queue's runs, and remembers them. ``jobs`` are known by name from the start."""

    def __init__(self, jobs: Mapping[str, Carried] | None = None, queue: str = "") -> None:
        self.has_async: bool = False
        """Whether an async job was ever found: who has met none need not look for any."""
        self._jobs = jobs or {}
        self._queue = queue
        self.by_head: dict[bytes, tuple[str, Callee]] = {}
        """The jobs that were found by name or reference, by the heads of their runs."""
        self._by_code: OrderedDict[bytes, Callee] = OrderedDict()

    def find(self, body: Body, id: str) -> tuple[str, Callee]:
        """The name and the job of the body of the run with this id, its signature checked.

        Raises UnknownJob, NotAJob, BadSignature or Corrupt.
        """
        found = self.by_head.get(body.head)
        head = open_head(body.head) if found is None else None
        if head is not None and head.version > VERSION:
            newer = f"(envelope version {head.version}, this reads {VERSION})"
            raise UnknownJob(f"{head.name} was fired by a newer SkunkQueue {newer}")
        if body.code or body.signature or codec.is_pickled(body.call):
            verify_body(body, id=id, queue=self._queue)
        if body.code:
            head = head or open_head(body.head)
            return head.name, self._carried(head, body.code)
        return found or self._remember(body.head, open_head(body.head))

    def _remember(self, written: bytes, head: Head) -> tuple[str, Callee]:
        name = head.name or head.ref
        found = name, by_reference(head.ref) if head.ref else self._named(head.name)
        if len(self.by_head) >= MOST_HEADS:
            self.by_head.clear()
        self.by_head[written] = found
        self.has_async = self.has_async or is_async(found[1].function)
        return found

    def knows(self, body: Body) -> bool:
        """Whether finding its job imports nothing and unpickles nothing."""
        if body.code:
            return body.code in self._by_code or body.code.startswith(MARK)
        return body.head in self.by_head

    def glance(self, body: Body) -> Callee | None:
        """The job, where neither it nor its arguments have to be imported or unpickled; no signature is checked."""
        if codec.is_pickled(body.call):
            return None
        if body.code:
            return referred(body.code) if body.code.startswith(MARK) else self._by_code.get(body.code)
        found = self.by_head.get(body.head)
        return None if found is None else found[1]

    def _carried(self, head: Head, code: bytes) -> Callee:
        if code.startswith(MARK):
            return self._referred(head, code)
        if head.python != PYTHON:
            raise UnknownJob(f"{head.name} came by value from Python {head.python}, this worker runs {PYTHON}")
        found = self._by_code.get(code)
        if found is None:
            found, sources = codec.unpickle_function(code)
            if is_a(found, Carried):
                found.sources = sources
            elif not is_a(found, Job):
                raise NotAJob(f"what came by value as {head.name} is a {type(found).__name__}, not a job")
            self._by_code[code] = found
            self.has_async = self.has_async or is_async(found.function)
            if len(self._by_code) > MOST_CODES:
                self._by_code.popitem(last=False)
        return found

    def _referred(self, head: Head, code: bytes) -> Callee:
        found: Callee | None = referred(code)  # not kept here, so that what it closes over can be collected
        if found is None:
            raise UnknownJob(f"{head.name} was fired at a store of a process that is gone")
        self.has_async = self.has_async or is_async(found.function)
        return found

    def _named(self, name: str) -> Callee:
        found = self._jobs.get(name)
        return by_name(name) if found is None else found


class Failures:
    """The modules that could not be imported, for a while: trying it anew for each run could take all the time."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[float, str]] = {}

    def note(self, module: str, sentence: str, took: float) -> UnknownJob:
        """Note that it failed after so many seconds; returns the error to raise."""
        if len(self._found) >= MOST_HEADS:
            self._found.clear()
        self._found[module] = ticks() + min(max(SOONEST, AGAIN * took), LATEST), sentence
        return UnknownJob(sentence)

    def check(self, module: str) -> None:
        """Raise UnknownJob if it failed a moment ago."""
        again, sentence = self._found.get(module, (0.0, ""))
        if ticks() < again:
            raise UnknownJob(sentence)


def by_reference(ref: str) -> Job[Any, Any]:
    """Import ``module:qualname`` and take what is there, only if it is a Job."""
    module_name, _, qualname = ref.partition(":")
    target = follow(_module(module_name, ref), qualname)
    if target is NOTHING or target is None:
        raise UnknownJob(f"there is no job {ref} here{_did_you_mean(ref)}")
    if not is_a(target, Job):
        raise NotAJob(f"{ref} is a {type(target).__name__}, not a job; nothing was executed")
    job: Job[Any, Any] = target
    return job


_failures = Failures()


def _module(name: str, ref: str) -> Any:
    """Import it; raises UnknownJob for whatever it raises: the same module may do on another worker, or later here."""
    if not name:
        raise UnknownJob(f"{ref!r} is not the name of a job")
    _failures.check(name)
    began = ticks()
    try:
        with while_importing():
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # A module that is there but misses one of its own imports is unknown here as well: another worker may have it.
        sentence = f"there is no module {error.name} here, for job {ref}{_did_you_mean(ref)}"
        raise _failures.note(name, sentence, ticks() - began) from error
    except BaseException as error:
        sentence = f"{name} cannot be imported here, for job {ref}: {type(error).__name__}: {error}"
        raise _failures.note(name, sentence, ticks() - began) from error


def by_name(name: str) -> Job[Any, Any]:
    """The job of that name among the modules imported."""
    for job in known_jobs():
        if job.name == name:
            return job
    raise UnknownJob(
        f"there is no job named {name} here (a worker knows those of its --import modules){_did_you_mean(name)}"
    )


def known_jobs() -> list[Job[Any, Any]]:
    """Every Job that an imported module holds at its top level."""
    found = {}
    for module in list(sys.modules.values()):
        for value in list(getattr(module, "__dict__", {}).values()):
            if is_a(value, Job):
                found[id(value)] = value
    return list(found.values())


def _did_you_mean(name: str) -> str:
    import difflib  # late: who knows its jobs needs no guesses

    close = difflib.get_close_matches(name, {job.name for job in known_jobs()}, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""
