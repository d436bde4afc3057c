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
        self._early = 0  # of a run to be interrupted that has not begun
        self._awaits = False
        self._spoilt = False  # a module may be half imported

    def serve(self) -> None:
        """Run what comes until there is no more."""
        try:
            while not self._spoilt and (task := self._link.next()) is not None:
                while task is not None:
                    if self._executor.is_async(task):
                        task = self._open_loop().run_until_complete(self._serve_async(task))
                    else:
                        self._say(self.run(task))
                        task = None
        finally:
            if self._runner is not None:
                self._runner.close()

    async def _serve_async(self, task: Task) -> Task | None:
        """Run async jobs for as long as they come without a gap, since starting a loop costs more than a short job.

        Returns the first run that is not async; its ticket is taken.
        """
        while True:
            self._say(await self._finish(task, None, perf_counter()))
            following = None if self._spoilt else self._link.next_now()
            if following is None or not self._executor.is_async(following):
                return following
            task = following

    def _say(self, frame: bytes) -> None:
        if os.getpid() != self._pid:
            os._exit(0)  # the job forked, and this is the copy coming back from it
        self._link.write(frame)

    def run(self, task: Task) -> bytes:
        """Execute a run; returns the frame with its outcome."""
        began = perf_counter()
        call: Invocation | None = None
        try:
            call = self._executor.open(task)
            if call.is_async:
                return self._open_loop().run_until_complete(self._finish(task, call, began))
            try:
                self._enter(task.number)  # only now: an interrupt during an import would leave a half imported module
                set_current(self._executor.current(task))
                return self._executor.returned(task, call, call.job.function(*call.args, **call.kwargs), began)
            finally:
                self._leave(task.number)
        except BaseException as error:
            return self._outcome(task, call, error, began)

    async def _finish(self, task: Task, call: Invocation | None, began: float) -> bytes:
        """The same for an async job, on the loop."""
        try:
            call = call or self._executor.open(task)
            try:
                self._enter(task.number)
                set_current(self._executor.current(task))
                return self._executor.returned(task, call, await self._await(call), began)
            finally:
                self._leave(task.number)
        except BaseException as error:
            return self._outcome(task, call, error, began)

    def _outcome(self, task: Task, call: Invocation | None, error: BaseException, began: float) -> bytes:
        if self._hit == task.number and (isinstance(error, Interrupted) or is_cancelled(error)):
            return frames.timed(frames.INTERRUPTED, task.number, ticks(), perf_counter() - began)
        return self._executor.raised(task, call, error, began)

    def _open_loop(self) -> asyncio.AbstractEventLoop:
        if self._runner is None:
            import asyncio  # slower to import than the rest of a worker, and most jobs need none

            from skunkqueue.worker.child.loop import new_loop

            self._runner = asyncio.Runner(loop_factory=new_loop)
        return self._runner.get_loop()

    async def _await(self, call: Invocation) -> Any:
        import asyncio

        self._awaits = True
        try:
            self._task = asyncio.get_running_loop().create_task(call.ended())
            if self._hit == self._number:  # it came a moment ago, when there was no task to cancel
                self._task.cancel()
            value, error = await self._task
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
        """Handle the pool's signal to interrupt runs; called on the main thread, between two steps of the job."""
        for number in self._link.interrupts():
            self._spoilt = self._spoilt or (number == self._number and is_importing(frame))
            self.interrupt(number)

    def interrupt(self, number: int) -> None:
        """Interrupt this run: now if it is running, else when it begins. One that comes too late has no effect."""
        if number != self._number:
            self._early = number
            return
        self._hit = number
        if self._is_in_a_step() or not self._cancel_task():
            raise Interrupted("interrupted by the pool")

    def _is_in_a_step(self) -> bool:
        """Whether an async job is executing now, not waiting: then it can be interrupted like any other."""
        if self._task is None:
            return False
        import asyncio

        return asyncio.current_task(self._task.get_loop()) is self._task

    def _cancel_task(self) -> bool:
        """Cancel an async job that waits. One that has not begun checks for the interrupt itself."""
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
