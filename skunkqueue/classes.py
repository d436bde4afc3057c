"""Jobs as classes, which derive from JobMixin and have a method ``work``; ``queue += Report()(args)`` fires a call."""

from __future__ import annotations

import sys
from typing import Any, ClassVar, Final, NoReturn

from skunkqueue.errors import WrongCall
from skunkqueue.hooks import Hooks
from skunkqueue.job import Job
from skunkqueue.lookup import follow
from skunkqueue.options import Given, Options
from skunkqueue.printable import said
from skunkqueue.queue import SkunkQueue
from skunkqueue.run import Run, Runs
from skunkqueue.stub import arguments_of

OPTIONS: Final = tuple(Given.__annotations__)


class _Nowhere:
    """In place of a queue, for the job that a worker finds in a class; who fires it is told what to do instead."""

    name = "?"
    broadcast = False
    one_process = False
    hooks = Hooks()

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise WrongCall("a class is fired through a queue: queue += Report()(arguments)")


class ClassJob(Job[Any, Any]):
    """The job of a class on one queue. Workers find it by the class, in ``Report.job``."""

    def __init__(self, kind: type[JobMixin], queue: Any) -> None:
        def call(*args: Any, **kwargs: Any) -> Any:
            given = bool(args) and isinstance(args[0], kind)
            return args[0].work(*args[1:], **kwargs) if given else kind().work(*args, **kwargs)

        async def call_async(*args: Any, **kwargs: Any) -> Any:
            return await call(*args, **kwargs)

        self.kind = kind
        work = call_async if _is_async(kind.work) else call
        work.__module__, work.__qualname__, work.__doc__ = kind.__module__, f"{kind.__qualname__}.job", kind.__doc__
        name = vars(kind).get("name")
        super().__init__(work, queue, name if isinstance(name, str) else _name_of(kind), _options_of(kind))

    @property
    def hooks(self) -> Hooks:
        """Those of the queue that the class names; a class that names none has nothing around it."""
        named = getattr(self.kind, "queue", None)
        return named.hooks if isinstance(named, SkunkQueue) else _Nowhere.hooks

    def is_importable(self) -> bool:
        """Whether ``module:Class.job`` leads to the job of this class."""
        if not self._importable and not self._by_value:
            self._importable = follow(sys.modules.get(self._module), self._qualname) is vars(self.kind).get("job")
        return self._importable


def _is_async(function: Any) -> bool:
    return bool(getattr(getattr(function, "__code__", None), "co_flags", 0) & 0x80)  # inspect.CO_COROUTINE


def _name_of(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "__main__" else f"{kind.__module__}:{kind.__qualname__}"


def _options_of(kind: type) -> Options:
    """The attributes of a class that are named like options. Raises WrongCall."""
    return Options().changed({name: getattr(kind, name) for name in OPTIONS if hasattr(kind, name)})


class JobMixin:
    """A class that derives from this is a job: ``work`` is what it does.

    Attributes that are named like options (``routes``, ``retries``, ``timeout`` ...) are its options, ``name`` is its
    name, and what is around the jobs of a queue that it names as ``queue`` is around it too. An object of it that is
    called with arguments is a call, which ``queue += call`` fires. An object travels along if it has attributes of its
    own; else the worker makes one. Raises WrongCall for a wrong option.
    """

    job: ClassVar[ClassJob]

    def __init_subclass__(cls, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        cls.job = ClassJob(cls, _Nowhere())

    def work(self, *args: Any, **kwargs: Any) -> Any:
        """What the job does."""
        raise NotImplementedError(f"{type(self).__name__} has no method work")

    def __call__(self, *args: Any, **kwargs: Any) -> ClassCalls:
        """A call of the job, to be added to a queue. Raises TypeError for arguments that ``work`` does not take."""
        arguments_of(type(self).work)(self, *args, **kwargs)
        return ClassCalls((_ClassCall(self, args, kwargs),))


class _ClassCall:
    """One call of a class that is a job."""

    def __init__(self, task: JobMixin, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.kind = type(task)
        self.args = (task, *args) if vars(task) else args
        self.kwargs = kwargs


class ClassCalls:
    """Calls that run in sequence, each when the one before has succeeded; made by ``Report()(args)`` and ``&``."""

    def __init__(self, calls: tuple[_ClassCall, ...]) -> None:
        self._calls = calls

    def __repr__(self) -> str:
        return " & ".join(f"{call.kind.__name__}(...)" for call in self._calls)

    def __and__(self, other: object) -> ClassCalls:
        return ClassCalls(self._calls + other._calls) if isinstance(other, ClassCalls) else NotImplemented

    def fire(self, queue: Any) -> Run[Any] | Runs[Any]:
        """Fire them on a queue; gives the run of the last."""
        run: Any = None
        for call in self._calls:
            job = ClassJob(call.kind, queue)
            run = (job if run is None else job.after(run)).fire(*call.args, **call.kwargs)
        found: Run[Any] | Runs[Any] = run
        return found


def calls_of(call: object) -> ClassCalls:
    """What is added to a queue. Raises WrongCall for anything else."""
    if isinstance(call, ClassCalls):
        return call
    raise WrongCall(
        f"what is added to a queue is a call of a class that is a job, Report()(arguments); got {said(call)}"
    )
