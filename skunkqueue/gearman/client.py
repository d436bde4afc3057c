"""Clients that call a worker's functions as if they were methods: SimpleClient waits, AsyncClient gives a handle."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, TypeVar

from skunkqueue.durations import seconds
from skunkqueue.errors import WrongCall
from skunkqueue.gearman.connection import Hosts
from skunkqueue.gearman.encoders import JSONDataEncoder
from skunkqueue.gearman.handle import ANSWER, Encoder, JobHandle
from skunkqueue.gearman.protocol import check_function
from skunkqueue.gearman.session import PATIENCE, Session
from skunkqueue.gearman.submission import PRIORITIES, Submission, check_unique
from skunkqueue.times import since_epoch

HOSTS: Final = ("localhost:4730",)
C = TypeVar("C", bound="_Calls")


@dataclass(frozen=True)
class CallOptions:
    """How jobs are submitted."""

    priority: str = "normal"
    background: bool = False
    unique: str | None = None
    timeout: float | None = None
    at: int | None = None


class _Calls:
    """Attributes are the workers' functions. Views with other options share the connection."""

    def __init__(
        self,
        hosts: Hosts = HOSTS,
        *,
        data_encoder: Encoder = JSONDataEncoder,
        timeout: float | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self._session = Session(hosts, patience=seconds(patience, "patience"))
        self._encoder = data_encoder
        self._options = CallOptions(timeout=None if timeout is None else seconds(timeout, "timeout"))

    def options(
        self: C,
        *,
        priority: str | None = None,
        background: bool | None = None,
        unique: str | None = None,
        timeout: float | None = None,
        at: datetime | float | None = None,
    ) -> C:
        """This client with other options; what is not named stays as it is.

        ``priority`` is "high", "normal" or "low". Jobs of one function and ``unique`` that is open are one job.
        ``timeout``: seconds that a SimpleClient waits for an answer. ``at``: when a background job is to run, a
        datetime or seconds since the epoch, which servers know in whole seconds. Raises WrongCall.
        """
        if priority is not None and priority not in PRIORITIES:
            raise WrongCall(f"priority is 'high', 'normal' or 'low'; got {priority!r}")
        changes: dict[str, Any] = {
            "priority": priority,
            "background": background,
            "unique": None if unique is None else check_unique(unique),
            "timeout": None if timeout is None else seconds(timeout, "timeout"),
            "at": None if at is None else _epoch(at),
        }
        named = {name: value for name, value in changes.items() if value is not None}
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__, _options=replace(self._options, **named))
        return view

    @property
    def background(self: C) -> C:
        """This client, submitting jobs that nobody waits for: a call returns once the server has accepted it."""
        return self.options(background=True)

    @property
    def high(self: C) -> C:
        """This client, submitting jobs of high priority."""
        return self.options(priority="high")

    @property
    def low(self: C) -> C:
        """This client, submitting jobs of low priority."""
        return self.options(priority="low")

    def close(self) -> None:
        """Close the connection, which the views of this client share. The next call opens another."""
        self._session.close()

    def __enter__(self: C) -> C:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {', '.join(map(str, self._session.servers))}>"

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return self[name]

    def __getitem__(self, function: str) -> Callable[..., Any]:
        """A function whose name is no attribute: ``client["my.function"](a=1)``. Raises WrongCall."""
        check_function(function)

        def call(*args: Any, **kwargs: Any) -> Any:
            if args:
                raise TypeError(
                    f"{function} takes arguments by keyword only, like {function}(name=value); got {len(args)} without"
                )
            return self._call(function, kwargs)

        call.__name__ = call.__qualname__ = function
        return call

    def _call(self, function: str, kwargs: dict[str, Any]) -> Any:
        raise NotImplementedError

    def _submit(self, function: str, kwargs: dict[str, Any]) -> JobHandle:
        options = self._options
        submission = Submission(
            function, self._encode(function, kwargs), unique=options.unique, priority=options.priority,
            background=options.background, at=options.at,
        )  # fmt: skip
        (open_one,) = self._session.submit([submission])
        return JobHandle(self._session, open_one, self._encoder)

    def _encode(self, function: str, kwargs: dict[str, Any]) -> bytes:
        try:
            return self._encoder.encode(kwargs)
        except (TypeError, ValueError, RecursionError) as error:
            name = _culprit(self._encoder, kwargs)
            raise WrongCall(f"{name} of {function} cannot be sent: {error}") from error


class SimpleClient(_Calls):
    """Calls functions of workers and waits for their answers: ``client.myworker_echo(text="...")``.

    ``hosts`` are tried in their order; when one is lost, what is under way is submitted to the next, with the same
    unique key. Arguments are keyword arguments, which ``data_encoder`` makes JSON of, as it reads the answer. For any
    number of threads.

    A call raises RemoteException with what the worker said, WorkFailed if it said nothing, JobUnfinished after
    ``timeout`` seconds, ServerUnavailable if no server can be reached (within ``patience`` seconds when one was lost),
    UnreadableAnswer for an answer that is no JSON; all of them are GearmanException. WrongCall for arguments that
    cannot be sent. With ``client.background`` a call returns a JobHandle once the server has accepted the job.
    """

    def _call(self, function: str, kwargs: dict[str, Any]) -> Any:
        handle = self._submit(function, kwargs)
        if self._options.background:
            handle.wait_accepted(ANSWER)
            return handle
        return handle.get_result(self._options.timeout)


class AsyncClient(_Calls):
    """Calls functions of workers without waiting: ``client.myworker_echo(text="...")`` is a JobHandle.

    Otherwise like SimpleClient. Any number of jobs can be under way on its one connection. What a call may raise of the
    job, the handle's ``get_result`` raises.
    """

    def _call(self, function: str, kwargs: dict[str, Any]) -> JobHandle:
        return self._submit(function, kwargs)


def _culprit(encoder: Encoder, kwargs: dict[str, Any]) -> str:
    """The argument that cannot be encoded, as a sentence names it."""
    for name, value in kwargs.items():
        try:
            encoder.encode({name: value})
        except Exception:
            return f"the argument {name!r}"
    return "an argument"


def _epoch(at: datetime | float) -> int:
    """Whole seconds since the epoch, never earlier than meant. Raises WrongCall."""
    if isinstance(at, datetime):
        return math.ceil(since_epoch(at))
    return math.ceil(seconds(at, "at (seconds since the epoch, or a datetime)"))
