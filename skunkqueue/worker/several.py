"""A worker that runs several at a time: threads for plain functions, one event loop for async ones."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from time import perf_counter
from typing import Any

from skunkqueue.clock import ticks
from skunkqueue.errors import Interrupted
from skunkqueue.run import set_current
from skunkqueue.worker import frames
from skunkqueue.worker.child import Link, is_cancelled, raise_in_thread
from skunkqueue.worker.execute import Call, Executor, Task


class Several:
    """Executes up to ``limit`` runs at a time. One that must be killed takes its neighbours' work with it."""

    def __init__(self, link: Link, executor: Executor, limit: int) -> None:
        self._link = link
        self._executor = executor
        self._limit = limit
        self._pid = os.getpid()
        self._between = threading.RLock()  # a signal may come while this very thread holds it
        self._threads: dict[int, int] = {}  # number of a run -> the thread it runs on
        self._tasks: dict[int, asyncio.Task[Any]] = {}
        self._hit: set[int] = set()
        self._pool = ThreadPoolExecutor(limit, thread_name_prefix="skunkqueue-job")

    def serve(self) -> None:
        """Run what comes until there is no more."""
        asyncio.run(self._serve())
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        free = asyncio.Semaphore(self._limit)
        running: set[asyncio.Future[Any]] = set()
        while True:
            await free.acquire()
            task = await self._next(loop)
            if task is None:
                break
            self._link.write(frames.one(frames.STARTED, task.number, ticks()))
            future = asyncio.ensure_future(self._run(loop, task))
            running.add(future)
            future.add_done_callback(running.discard)
            future.add_done_callback(lambda _: free.release())
        if running:
            await asyncio.wait(running)

    async def _next(self, loop: asyncio.AbstractEventLoop) -> Task | None:
        """Take a ticket without holding up the loop; the pool may be faster and take it back."""
        while True:
            await self._readable(loop)
            self._link.horizon.wait()
            try:
                ticket = self._link.tickets.recv(4, socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
            return self._link.inbox.take(frames.TICKET.unpack(ticket)[0]) if len(ticket) == 4 else None

    async def _readable(self, loop: asyncio.AbstractEventLoop) -> None:
        come = loop.create_future()

        def note() -> None:
            if not come.done():
                come.set_result(None)

        loop.add_reader(self._link.tickets, note)
        try:
            await come
        finally:
            loop.remove_reader(self._link.tickets)

    async def _run(self, loop: asyncio.AbstractEventLoop, task: Task) -> None:
        began = perf_counter()
        opened = await loop.run_in_executor(self._pool, self._open, task, began)
        if isinstance(opened, bytes):
            frame = opened
        elif opened.is_async:
            frame = await self._await(task, opened, began)
        else:
            frame = await loop.run_in_executor(self._pool, copy_context().run, self._call, task, opened, began)
        self._send(frame)

    def _send(self, frame: bytes) -> None:
        if os.getpid() != self._pid:
            os._exit(0)  # the job forked, and this is the copy coming back from it
        self._link.write(frame)

    def _open(self, task: Task, began: float) -> Call | bytes:
        try:
            return self._executor.open(task)
        except BaseException as error:
            return self._executor.raised(task, None, error, began)

    def _call(self, task: Task, call: Call, began: float) -> bytes:
        """Run a plain function on this thread."""
        try:
            with self._between:
                self._threads[task.number] = threading.get_ident()
            try:
                set_current(self._executor.current(task))
                return self._executor.returned(task, call, call.job.function(*call.args, **call.kwargs), began)
            finally:
                self._leave(task.number)
        except BaseException as error:
            if os.getpid() != self._pid:
                os._exit(0)
            return self._ended(task, call, error, began)

    def _leave(self, number: int) -> None:
        with self._between:
            ident = self._threads.pop(number)
            hit = number in self._hit
        if hit:
            raise_in_thread(ident, None)  # takes back an interrupt that came too late

    async def _await(self, task: Task, call: Call, began: float) -> bytes:
        """Run an async function on the loop."""
        set_current(self._executor.current(task))
        running = asyncio.ensure_future(call.ended())
        self._tasks[task.number] = running
        try:
            value, error = await running
            if error is not None:
                raise error
            return self._executor.returned(task, call, value, began)
        except BaseException as error:
            return self._ended(task, call, error, began)
        finally:
            del self._tasks[task.number]

    def _ended(self, task: Task, call: Call, error: BaseException, began: float) -> bytes:
        with self._between:
            hit = task.number in self._hit
            self._hit.discard(task.number)
        if hit and (isinstance(error, Interrupted) or is_cancelled(error)):
            return frames.timed(frames.INTERRUPTED, task.number, ticks(), perf_counter() - began)
        return self._executor.raised(task, call, error, began)

    def on_signal(self, *_: object) -> None:
        """The pool has something to be interrupted."""
        for number in self._link.interrupts():
            self.interrupt(number)

    def interrupt(self, number: int) -> None:
        """Stop this run, if it is still running; an interrupt that arrives late hits nobody."""
        task = self._tasks.get(number)
        if task is not None:
            self._hit.add(number)
            task.get_loop().call_soon_threadsafe(task.cancel)
            return
        with self._between:
            ident = self._threads.get(number)
            if ident is not None:
                self._hit.add(number)
                raise_in_thread(ident, Interrupted)
