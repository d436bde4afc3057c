"""The worker process: takes runs from its pool, executes them one at a time, says what happened. It opens no store."""

from __future__ import annotations

import importlib
import json
import mmap
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from struct import unpack_from
from time import perf_counter
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

from skunkqueue.clock import ticks
from skunkqueue.errors import Interrupted
from skunkqueue.job import Carried, while_importing
from skunkqueue.run import set_current
from skunkqueue.worker import frames
from skunkqueue.worker.execute import Call, Executor, Task
from skunkqueue.worker.resolve import Resolver

if TYPE_CHECKING:
    import asyncio

CHUNK = 1 << 18
PAUSE = 0.02
"""Seconds between looks at the horizon, once it has passed."""


class Ends(NamedTuple):
    """A worker's ends of what lies between it and its pool, as file descriptors."""

    inbox: int
    outbox: int
    tickets: int
    control: int
    horizon: int


class Inbox:
    """Runs as they come, found by the number on a ticket; those whose ticket was taken back are dropped."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._splitter = frames.Splitter()
        self._come: list[tuple[int, bytes]] = []
        self._next = 0

    def take(self, number: int) -> Task:
        """The run of that number; waits for its frame."""
        while True:
            while self._next < len(self._come):
                found, rest = self._come[self._next]
                self._next += 1
                if found == number:
                    return _task(number, rest)
            self._come = [(found, rest) for _, found, rest in self._splitter.feed(self._read())]
            self._next = 0

    def _read(self) -> bytes:
        data = os.read(self._fd, CHUNK)
        if not data:
            raise SystemExit("the pool is gone")
        return data


def _task(number: int, rest: bytes) -> Task:
    attempt, length = frames.RUN_REST.unpack_from(rest)
    return Task(number, attempt, rest[3 : 3 + length].decode(), rest[3 + length :])


class Horizon:
    """The time (of clock.ticks) until which the pool surely holds the leases of what it handed out."""

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, 8, prot=mmap.PROT_READ)

    def wait(self) -> None:
        """Start nothing whose lease may have ended: a pool that wakes extends first."""
        while self.passed():
            time.sleep(PAUSE)

    def passed(self) -> bool:
        """Whether a lease may have ended."""
        return bool(unpack_from("<d", self._map)[0] < ticks())


class Link:
    """What lies between a worker and its pool, from the worker's side."""

    def __init__(self, ends: Ends) -> None:
        self.inbox = Inbox(ends.inbox)
        self.tickets = socket.socket(fileno=ends.tickets)
        self.horizon = Horizon(ends.horizon)
        self._outbox = ends.outbox
        self._control = ends.control
        self._lock = threading.Lock()
        os.set_blocking(ends.control, False)

    def next(self) -> Task | None:
        """Take a ticket, and so the right to start its run; None when there will be no more."""
        self.horizon.wait()
        ticket = self.tickets.recv(4)
        return self.inbox.take(frames.TICKET.unpack(ticket)[0]) if len(ticket) == 4 else None

    def write(self, frame: bytes) -> None:
        """Send a frame, whole. Jobs' own threads may report progress at the same time."""
        with self._lock:
            sent = os.write(self._outbox, frame)
            while sent < len(frame):
                sent += os.write(self._outbox, memoryview(frame)[sent:])

    def interrupts(self) -> list[int]:
        """The numbers of the runs to be interrupted."""
        try:
            data = os.read(self._control, 4096)
        except BlockingIOError:
            return []
        return [frames.TICKET.unpack_from(data, at)[0] for at in range(0, len(data) - 3, 4)]


class Solo:
    """Executes one run at a time on this thread."""

    def __init__(self, link: Link, executor: Executor) -> None:
        self._link = link
        self._executor = executor
        self._pid = os.getpid()
        self._runner: asyncio.Runner | None = None
        self._task: asyncio.Task[Any] | None = None
        self._number = 0  # of the run that an interrupt may hit
        self._hit = 0  # of the run that was interrupted
        self._early = 0  # of a run to be interrupted that it has yet to come to
        self._awaits = False
        self._spoilt = False  # a module may be half imported

    def serve(self) -> None:
        """Run what comes until there is no more."""
        try:
            while (task := self._link.next()) is not None:
                frame = self.run(task)
                if os.getpid() != self._pid:
                    os._exit(0)  # the job forked, and this is the copy coming back from it
                self._link.write(frame)
                if self._spoilt:
                    return  # the pool starts another
        finally:
            if self._runner is not None:
                self._runner.close()

    def run(self, task: Task) -> bytes:
        began = perf_counter()
        call: Call | None = None
        try:
            call = self._executor.open(task)
            is_async = call.is_async and self._can_await()
            try:
                self._enter(task.number)  # only now: an interrupt amid an import would leave half a module behind
                set_current(self._executor.current(task))
                value = self._await(call) if is_async else call.job.function(*call.args, **call.kwargs)
                return self._executor.returned(task, call, value, began)
            finally:
                self._leave(task.number)
        except BaseException as error:
            if self._hit == task.number and (isinstance(error, Interrupted) or is_cancelled(error)):
                return frames.timed(frames.INTERRUPTED, task.number, ticks(), perf_counter() - began)
            return self._executor.raised(task, call, error, began)

    def _can_await(self) -> bool:
        import asyncio  # costs more than the rest of a worker, and most jobs need none

        if self._runner is None:
            self._runner = asyncio.Runner()
            self._runner.get_loop()
        return True

    def _await(self, call: Call) -> Any:
        import asyncio

        assert self._runner is not None

        async def within() -> Any:
            self._task = asyncio.current_task()
            if self._hit == self._number:
                raise Interrupted("interrupted by the pool")
            return await call.ended()

        self._awaits = True
        try:
            value, error = self._runner.run(within())
        finally:
            self._awaits, self._task = False, None
        if error is not None:
            raise error
        return value

    def _enter(self, number: int) -> None:
        self._number = number
        if number == self._early:
            self.interrupt(number)

    def _leave(self, number: int) -> None:
        self._number = 0

    def on_signal(self, signal_number: int, frame: FrameType | None) -> None:
        """The pool has something to be interrupted; runs on the main thread, between two steps of the job."""
        for number in self._link.interrupts():
            self._spoilt = self._spoilt or (number == self._number and is_importing(frame))
            self.interrupt(number)

    def interrupt(self, number: int) -> None:
        """Stop this run, if it is the one, or as soon as it is; an interrupt that arrives late hits nobody."""
        if number != self._number:
            self._early = number
            return
        self._hit = number
        if self._is_in_a_step() or not self._cancel_task():
            raise Interrupted("interrupted by the pool")

    def _is_in_a_step(self) -> bool:
        """Whether an async job is at work now, not waiting: then it can be interrupted like any other."""
        if self._task is None:
            return False
        import asyncio

        return asyncio.current_task(self._task.get_loop()) is self._task

    def _cancel_task(self) -> bool:
        """Cancel an async job where it waits. One that has not begun sees by itself that it was hit."""
        if self._task is not None:
            self._task.get_loop().call_soon_threadsafe(self._task.cancel)
        return self._awaits


class SoloThread(Solo):
    """The same on a thread of the pool's own process: interrupted from another thread, so with a lock."""

    def __init__(self, link: Link, executor: Executor) -> None:
        super().__init__(link, executor)
        self._between = threading.Lock()
        self._ident = 0

    def serve(self) -> None:
        self._ident = threading.get_ident()
        super().serve()

    def _enter(self, number: int) -> None:
        with self._between:
            self._number = number
        if number == self._early:
            self._hit = number
            raise Interrupted("interrupted by the pool")

    def _leave(self, number: int) -> None:
        with self._between:
            self._number = 0
        if self._hit == number:
            raise_in_thread(self._ident, None)

    def interrupt(self, number: int) -> None:
        with self._between:
            if number != self._number:
                self._early = number
                return
            self._hit = number
            if not self._cancel_task():
                raise_in_thread(self._ident, Interrupted)


def is_cancelled(error: BaseException) -> bool:
    """Whether it is asyncio's way of stopping a task."""
    return type(error).__name__ == "CancelledError"


def is_importing(frame: FrameType | None) -> bool:
    """Whether what is interrupted there is the import of a module, of which half would stay."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def raise_in_thread(ident: int, error: type[BaseException] | None) -> None:
    """Raise in another thread at its next step; None takes back what it has not met yet."""
    import ctypes

    target = ctypes.c_ulong(ident)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(target, None if error is None else ctypes.py_object(error))


def die_with(parent: int) -> None:
    """Be killed when the pool's thread that started this process ends, however it ends (Linux)."""
    import ctypes

    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):
        return
    if os.getppid() != parent:
        os._exit(1)


def import_all(modules: list[str]) -> str | None:
    """Import what the pool was told to; gives what went wrong."""
    for name in modules:
        try:
            with while_importing():
                importlib.import_module(name)
        except BaseException as error:
            return f"cannot import {name}: {type(error).__name__}: {error}"
    return None


def _nothing(*_: object) -> None:
    """For signals that a terminal or systemd sends to everybody: the pool answers them."""


def _let_forks_be_ended() -> None:
    """What a job forks can be ended by SIGTERM: multiprocessing ends its processes so, and waits until they are dead.

    Held back while the fork is under way, for it may come before the copy is no longer deaf to it.
    """
    masks = threading.local()

    def hold() -> None:
        masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def let_go() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.before)

    def give_way() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        let_go()

    os.register_at_fork(before=hold, after_in_parent=let_go, after_in_child=give_way)


def main() -> None:
    """The entry of a worker process."""
    setup = json.loads(os.environ.pop("SKUNKQUEUE_CHILD"))
    die_with(setup["parent"])
    for name in ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGABRT"):
        signal.signal(getattr(signal, name), _nothing)
    _let_forks_be_ended()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A line at a time, also under PYTHONUNBUFFERED, by which each word of a print would be written for itself:
            # all workers of a pool, and its log, often write to the same.
            stream.reconfigure(line_buffering=True, write_through=False)
    link = Link(Ends(*setup["ends"]))
    worker = make(link, setup)
    signal.signal(signal.SIGURG, worker.on_signal)
    serve(link, worker, setup)


def serve(link: Link, worker: Any, setup: Mapping[str, Any]) -> None:
    """Import what is to be imported, and say so or what went wrong; then work until there is no more."""
    wrong = import_all(setup["imports"])
    if wrong is not None:
        link.write(frames.plain(frames.BROKEN, 0, wrong.encode("utf-8", "replace")))
        return
    link.write(frames.plain(frames.READY, 0))
    worker.serve()


def make(
    link: Link, setup: Mapping[str, Any], *, jobs: Mapping[str, Carried] | None = None, thread: bool = False
) -> Any:
    """The kind of worker that is asked for."""
    executor = Executor(link.write, Resolver(jobs or _known_jobs(setup)), max_result=setup["max_result"])
    if setup["concurrency"] > 1:
        from skunkqueue.worker.several import Several

        return Several(link, executor, setup["concurrency"])
    return (SoloThread if thread else Solo)(link, executor)


def _known_jobs(setup: Mapping[str, Any]) -> Mapping[str, Carried] | None:
    """The jobs that a worker process knows by name from the start, where its pool says who gives them."""
    if not setup.get("jobs"):
        return None
    module, _, name = setup["jobs"].partition(":")
    known: Mapping[str, Carried] = getattr(importlib.import_module(module), name)(setup["shared"])
    return known
