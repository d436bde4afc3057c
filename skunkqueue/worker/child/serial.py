"""A worker that runs one at a time, on the main thread of its process or on a thread of the pool's."""

from __future__ import annotations

import os
import threading
from time import perf_counter
from types import FrameType
from typing import TYPE_CHECKING, Any

from skunkqueue.clock import ticks
from skunkqueue.errors import Interrupted
from skunkqueue.run import set_current
from skunkqueue.worker import frames
from skunkqueue.worker.child.execute import Executor, Invocation, Task
from skunkqueue.worker.child.interrupt import is_cancelled, is_importing, raise_in_thread
from skunkqueue.worker.child.link import Link

if TYPE_CHECKING:
    import asyncio


class Serial:
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
        call: Invocation | None = None
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

    def _await(self, call: Invocation) -> Any:
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


class SerialThread(Serial):
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
