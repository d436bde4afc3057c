"""A worker that runs several at a time: threads for plain functions, one event loop for async ones."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import threading
from collections.abc import Callable
from contextvars import copy_context
from queue import SimpleQueue
from time import perf_counter
from typing import Any, TypeAlias

from skunkqueue.clock import ticks
from skunkqueue.errors import Interrupted
from skunkqueue.run import set_current
from skunkqueue.worker import frames
from skunkqueue.worker.child.execute import Executor, Invocation, Task
from skunkqueue.worker.child.interrupt import is_cancelled, is_importing, raise_in_thread
from skunkqueue.worker.child.link import PAUSE, Link

Place: TypeAlias = "int | asyncio.Task[Any] | None"


class Concurrent:
    """Executes up to ``limit`` runs at a time. One that must be killed takes its neighbours' work with it."""

    def __init__(self, link: Link, executor: Executor, limit: int) -> None:
        self._link = link
        self._executor = executor
        self._limit = limit
        self._pid = os.getpid()
        self._between = threading.RLock()  # a signal may come while this very thread holds it
        self._places: dict[int, Place] = {}  # number of a run -> its thread or task, None before it has either
        self._hit: set[int] = set()  # of those, the ones to be interrupted
        self._early: set[int] = set()  # interrupts of runs that it has yet to come to
        self._last = 0
        self._spoilt = False  # a module may be half imported
        self._threads = Threads(limit)

    def serve(self) -> None:
        """Run what comes until there is no more."""
        try:
            asyncio.run(self._serve())
        finally:
            self._threads.end()

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        free = asyncio.Semaphore(self._limit)
        running: set[asyncio.Future[Any]] = set()
        while True:
            await free.acquire()
            task = await self._next(loop)
            if task is None:
                break
            self._begin(task.number)
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
            while self._link.horizon.passed():
                await asyncio.sleep(PAUSE)
            if self._spoilt:
                return None  # the pool starts another
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

    def _begin(self, number: int) -> None:
        with self._between:
            self._places[number] = None
            self._last = number
            if number in self._early:
                self._hit.add(number)
            self._early.clear()  # numbers only grow: the others have ended before they were to be interrupted
        self._link.write(frames.one(frames.STARTED, number, ticks()))

    async def _run(self, loop: asyncio.AbstractEventLoop, task: Task) -> None:
        began = perf_counter()
        call = await self._threads.run(loop, lambda: copy_context().run(self._open, task, began))
        if call is not None:
            self._send(await self._await(task, call, began))

    def _send(self, frame: bytes) -> None:
        if os.getpid() != self._pid:
            os._exit(0)  # the job forked, and this is the copy coming back from it
        self._link.write(frame)

    # on a thread

    def _open(self, task: Task, began: float) -> Invocation | None:
        """Open a run, and call it, unless it is async: then it is for the loop.

        What comes of it is sent from here, for an async job may keep the loop busy.
        """
        try:
            call = self._executor.open(task)
        except BaseException as error:
            self._forget(task.number)
            self._send(self._executor.raised(task, None, error, began))
            return None
        if call.is_async:
            return call
        self._send(self._call(task, call, began))
        return None

    def _call(self, task: Task, call: Invocation, began: float) -> bytes:
        try:
            try:
                self._enter(task.number, threading.get_ident())
                set_current(self._executor.current(task))
                return self._executor.returned(task, call, call.job.function(*call.args, **call.kwargs), began)
            finally:
                self._leave(task.number)
        except BaseException as error:
            return self._ended(task, call, error, began)
        finally:
            self._forget(task.number)

    # on the loop

    async def _await(self, task: Task, call: Invocation, began: float) -> bytes:
        set_current(self._executor.current(task))
        running = asyncio.ensure_future(call.ended())
        try:
            try:
                self._enter(task.number, running)
                value, error = await running
                if error is not None:
                    raise error
                return self._executor.returned(task, call, value, began)
            finally:
                self._leave(task.number)
        except BaseException as error:
            running.cancel()
            return self._ended(task, call, error, began)
        finally:
            self._forget(task.number)

    # interrupts

    def _enter(self, number: int, place: Place) -> None:
        with self._between:
            self._places[number] = place
            if number in self._hit:
                raise Interrupted("interrupted by the pool")

    def _leave(self, number: int) -> None:
        """From here on no interrupt hits it. (One may hit this very step.)"""
        with self._between:
            place = self._places.pop(number)
        if number in self._hit and isinstance(place, int):
            raise_in_thread(place, None)  # takes back an interrupt that came too late

    def _forget(self, number: int) -> None:
        with self._between:
            self._places.pop(number, None)
            self._hit.discard(number)

    def _ended(self, task: Task, call: Invocation, error: BaseException, began: float) -> bytes:
        if task.number in self._hit and (isinstance(error, Interrupted) or is_cancelled(error)):
            return frames.timed(frames.INTERRUPTED, task.number, ticks(), perf_counter() - began)
        return self._executor.raised(task, call, error, began)

    def on_signal(self, *_: object) -> None:
        """The pool has something to be interrupted."""
        for number in self._link.interrupts():
            self.interrupt(number)

    def interrupt(self, number: int) -> None:
        """Stop this run, once, if it is running, or as soon as it is."""
        with self._between:
            if number > self._last:
                self._early.add(number)
            elif number in self._places and number not in self._hit:
                self._hit.add(number)
                place = self._places[number]
                if isinstance(place, int) and is_importing(sys._current_frames().get(place)):
                    self._spoilt = True
                _interrupt(place)


def _interrupt(place: Place) -> None:
    if isinstance(place, int):
        raise_in_thread(place, Interrupted)
    elif place is not None:
        place.get_loop().call_soon_threadsafe(place.cancel)


class Threads:
    """Up to so many threads, made as they are needed; a job that never comes back on one holds up no exit."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._made = 0
        self._idle = threading.Semaphore(0)
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    def run(self, loop: asyncio.AbstractEventLoop, work: Callable[[], Any]) -> asyncio.Future[Any]:
        """Have it done; a future that is settled when it is."""
        future = loop.create_future()

        def do() -> None:
            value, error = None, None
            try:
                value = work()
            except BaseException as raised:  # the pool has given this worker up: there is nobody to tell
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(_settle, future, value, error)

        self._work.put(do)
        if not self._idle.acquire(blocking=False) and self._made < self._most:
            self._made += 1
            threading.Thread(target=self._serve, name=f"skunkqueue-job-{self._made}", daemon=True).start()
        return future

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            work()
            del work  # and with it what the job returned
            self._idle.release()

    def end(self) -> None:
        """Let the threads end when they are idle."""
        for _ in range(self._made):
            self._work.put(None)


def _settle(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
