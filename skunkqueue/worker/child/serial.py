"""A worker that runs one at a time, on the main thread of its process or on a thread of the pool's."""

from __future__ import annotations

import os
import sys
import threading
from contextvars import Context, copy_context
from time import perf_counter
from types import FrameType
from typing import TYPE_CHECKING, Any

from skunkqueue.clock import ticks
from skunkqueue.envelope import Body
from skunkqueue.errors import Interrupted
from skunkqueue.run import set_current
from skunkqueue.worker import frames
from skunkqueue.worker.child.current_loop import restore_current_loop
from skunkqueue.worker.child.execute import VALUES, Executor, Invocation, Task, discard, ended, is_awaitable
from skunkqueue.worker.child.interrupt import is_cancelled, is_importing, raise_in_thread
from skunkqueue.worker.child.link import Link
from skunkqueue.worker.child.stdio import stdio
from skunkqueue.worker.child.surroundings import surroundings

if TYPE_CHECKING:
    import asyncio

    from skunkqueue.worker.child.loop import Loop


class Serial:
    """Executes one run at a time on this thread, each in a context of its own."""

    def __init__(self, link: Link, executor: Executor) -> None:
        self._link = link
        self._executor = executor
        self._pid = os.getpid()
        self._loop: Loop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._number = 0  # of the run that an interrupt may hit
        self._hit = 0  # of the run that was interrupted
        self._early = 0  # of a run to be interrupted that has not begun
        self._awaits = False
        self._spoilt = False  # a module may be half imported

    def serve(self) -> None:
        """Run what comes until there is no more."""
        try:
            while not self._spoilt and (task := self._link.next(surroundings.restore)) is not None:
                while task is not None:
                    body = self._executor.async_body(task)
                    if body is not None:
                        task = self._open_loop().run(self._serve_async(task, body))
                    else:
                        self._say(self.run(task))
                        task = None
        finally:
            self.close()

    def close(self) -> None:
        """End the lifespans, and close the event loop, if there is one."""
        self._executor.close()
        if self._loop is not None:
            self._loop.close()

    async def _serve_async(self, task: Task, body: Body) -> Task | None:
        """Run async jobs for as long as they come without a gap, since starting a loop costs more than a short job.

        Returns the first run that is not async; its ticket is taken.
        """
        context = copy_context()
        while True:
            if (now := perf_counter()) >= surroundings.check_at:
                surroundings.restore_in_time(now)
            out, err = sys.stdout, sys.stderr
            frame = await self._run_async(task, body, context.copy())
            if stdio.installed:
                sys.stdout, sys.stderr = out, err
            self._say(frame)
            following = None if self._spoilt else self._link.next_now()
            its_body = None if following is None else self._executor.async_body(following)
            if following is None or its_body is None:
                return following
            task, body = following, its_body

    def _say(self, frame: bytes) -> None:
        if os.getpid() != self._pid:
            os._exit(0)  # the job forked, and this is the copy coming back from it
        self._link.write(frame)

    def run(self, task: Task) -> bytes:
        """Execute a run; returns the frame with its outcome."""
        began = perf_counter()
        if began >= surroundings.check_at:
            surroundings.restore_in_time(began)
        try:
            call = self._open(task)
        except BaseException as error:
            return self._outcome(task, None, error, began)
        if "asyncio" in sys.modules:
            restore_current_loop()
        out, err = sys.stdout, sys.stderr
        try:
            return copy_context().run(self._call, task, call, began)
        finally:
            if stdio.installed:
                sys.stdout, sys.stderr = out, err

    def _open(self, task: Task, body: Body | None = None) -> Invocation:
        """Find what to call; what its modules set when they are imported now is to stay."""
        modules = len(sys.modules)
        try:
            return self._executor.open(task, body)
        finally:
            if len(sys.modules) != modules:
                surroundings.note_usual()

    def _call(self, task: Task, call: Invocation, began: float) -> bytes:
        """Call the function, in the run's own context; await what it returns, where that is to be awaited."""
        try:
            set_current(self._executor.current(task, call))
            try:
                self._enter(task.number)  # only now: an interrupt during an import would leave a half imported module
                value = call.job.function(*call.args, **call.kwargs)
                if type(value) in VALUES or not is_awaitable(value):
                    return self._executor.returned(task, call, value, began)
            finally:
                self._leave(task.number)
            return self._open_loop().run(self._finish(task, call, value, began, copy_context()))
        except BaseException as error:
            return self._outcome(task, call, error, began)

    async def _run_async(self, task: Task, body: Body, context: Context) -> bytes:
        """Execute the run of a job that is known to be async."""
        began = perf_counter()
        call: Invocation | None = None
        try:
            call = self._open(task, body)
            context.run(set_current, self._executor.current(task, call))
            value: Any = context.run(call.__call__)
        except BaseException as error:
            return self._outcome(task, call, error, began)
        return await self._finish(task, call, value, began, context)

    async def _finish(self, task: Task, call: Invocation, value: Any, began: float, context: Context) -> bytes:
        """Await what the function returned, on the loop."""
        try:
            try:
                self._enter(task.number)
                result = await self._await(value, context)
                return context.run(self._executor.returned, task, call, result, began)
            finally:
                self._leave(task.number)
                discard(value)
        except BaseException as error:
            return context.run(self._outcome, task, call, error, began)

    def _outcome(self, task: Task, call: Invocation | None, error: BaseException, began: float) -> bytes:
        if self._hit == task.number and (isinstance(error, Interrupted) or is_cancelled(error)):
            return frames.timed(frames.INTERRUPTED, task.number, ticks(), perf_counter() - began)
        return self._executor.raised(task, call, error, began)

    def _open_loop(self) -> Loop:
        if self._loop is None:
            # Importing asyncio takes longer than the rest of a worker, and most jobs need none.
            from skunkqueue.worker.child.loop import Loop

            self._loop = Loop()
        return self._loop

    async def _await(self, value: Any, context: Context) -> Any:
        import asyncio

        self._awaits = True
        try:
            self._task = asyncio.get_running_loop().create_task(ended(value), context=context)
            if self._hit == self._number:  # it came a moment ago, when there was no task to cancel
                self._task.cancel()
            result, error = await self._task
        finally:
            self._awaits, self._task = False, None
        if error is not None:
            raise error
        return result

    def _enter(self, number: int) -> None:
        self._number = number
        if number == self._early:
            self.interrupt(number)

    def _leave(self, number: int) -> None:
        self._number = 0

    def executing(self) -> tuple[int, ...]:
        """The number of the run whose function is executed, from another thread."""
        return (self._number,)

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
