"""A worker that runs several at a time: threads for plain functions, one event loop for async ones.

Of all threads and the loop, one at a time is the leader: it takes tickets. A thread that takes one for a quick function
keeps the lead while it runs it, so that quick functions run one after the other on one thread, as in a worker that runs
one at a time. Before a function that may take long it passes the lead on. Async jobs run on the loop, which as leader
takes as many tickets at once as there are free places. A leader that meets a job of the other kind hands over the lead
with it. A watchdog takes the lead from a thread or loop that keeps it too long.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import threading
from collections import deque
from contextvars import copy_context
from queue import SimpleQueue
from time import perf_counter, sleep
from typing import Any, Final

from skunkqueue.clock import ticks
from skunkqueue.envelope import Body
from skunkqueue.errors import Interrupted
from skunkqueue.run import set_current
from skunkqueue.worker import frames
from skunkqueue.worker.child.current_loop import restore_current_loop
from skunkqueue.worker.child.execute import Executor, Invocation, Task, discard, is_awaitable
from skunkqueue.worker.child.interrupt import is_cancelled
from skunkqueue.worker.child.link import PAUSE, Link
from skunkqueue.worker.child.loop import Loop
from skunkqueue.worker.child.places import LOOP, TAKING, Places
from skunkqueue.worker.child.surroundings import surroundings

QUICK: Final = 0.0001
"""A job is quick after a run that took less than so many seconds."""
SLOW: Final = 0.001
"""A job is no longer quick after a run that took more than so many seconds."""
MOST_QUICK: Final = 1000
"""Jobs that are remembered as quick."""
FIRST_LOOK: Final = 0.002
LAST_LOOK: Final = 0.02
"""Seconds between two looks of the watchdog, which become longer while nothing changes."""


class Concurrent:
    """Executes up to ``limit`` runs at a time. If one has to be killed, the others in this worker are lost too."""

    def __init__(self, link: Link, executor: Executor, limit: int) -> None:
        self._link = link
        self._executor = executor
        self._pid = os.getpid()
        self._places = Places(limit)
        self._threads = Threads(self._on_thread)
        self._quick: set[int] = set()  # ids of job objects; a reused id only causes a wrong guess
        self._stirred = threading.Event()  # unset while the watchdog need not look
        self._listens = False
        self._closed = False
        self._told: deque[tuple[int, bytes]] = deque()  # ended on the loop, with the outcome to be sent

    def serve(self) -> None:
        """Run what comes until there is no more."""
        loop = Loop()
        try:
            loop.run(self._serve())
        finally:
            self._executor.close()
            loop.close()
            self._closed = True
            self._places.close()
            self._stirred.set()
            self._threads.end()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        self._context = copy_context()  # callbacks made within a run would else inherit that run's context
        threading.Thread(target=self._watch, name="skunkqueue-watchdog", daemon=True).start()
        self._take_on_loop()
        try:
            await self._ended
        finally:
            self._listen(False)

    def executing(self) -> list[int]:
        """The numbers of the runs whose functions are executed, from another thread."""
        return self._places.numbers()

    def on_signal(self, *_: object) -> None:
        """Handle the pool's signal to interrupt runs."""
        for number in self._link.interrupts():
            self.interrupt(number)

    def interrupt(self, number: int) -> None:
        """Interrupt this run, once: now if it is running, else when it begins."""
        self._places.interrupt(number)

    # used by threads and the loop

    def _begin(self, numbers: list[int], lead: int) -> bytes:
        """Note that these tickets are taken; returns the STARTED frames."""
        self._places.begin(numbers, lead)
        if not self._stirred.is_set():
            self._stirred.set()
        now = ticks()
        return b"".join([frames.one(frames.STARTED, number, now) for number in numbers])

    def _clean_up(self) -> None:
        """Undo what jobs did to this process, if none is running."""
        if not self._places.running:
            surroundings.restore_all()
            if surroundings.has_other_handlers:
                self._loop.call_soon_threadsafe(self._clean_up)

    def _say(self, said: bytes) -> None:
        if said:
            self._link.write(said)

    def _leave(self, number: int, *, to_await: bool = False) -> None:
        if os.getpid() != self._pid:
            os._exit(0)  # the job forked, and this is the copy coming back from it
        (self._places.suspend if to_await else self._places.leave)(number)

    def _outcome(self, task: Task, call: Invocation | None, error: BaseException, began: float) -> bytes:
        if self._places.was_hit(task.number) and (isinstance(error, Interrupted) or is_cancelled(error)):
            return frames.timed(frames.INTERRUPTED, task.number, ticks(), perf_counter() - began)
        return self._executor.raised(task, call, error, began)

    def _no_more(self) -> None:
        """Note that there are no more tickets, or that none may be taken; called by the leader."""
        self._places.close()
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self._places.is_done:
            self._end(None)

    def _end(self, error: BaseException | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(_settle, self._ended, error)

    # on a thread

    def _on_thread(self, task: Task | None) -> None:
        """Execute this run, if one is given, and take further runs while this thread leads."""
        try:
            self._follow(task)
        except BaseException as error:  # the pool is gone, or has given this worker up
            self._end(error)

    def _follow(self, task: Task | None) -> None:
        said = b""
        while task is not None or (task := self._take(said)) is not None:
            frame = copy_context().run(self._execute, task)
            if frame is None:
                return  # it is async, and with the loop
            said, leads = frame, self._places.resume(task.number)
            if not leads:
                self._say(said)
                said, leads = b"", self._places.vacate(TAKING)
            if not leads:
                self._clean_up()
                self._end_if_done()
                return
            task = None

    def _take(self, said: bytes) -> Task | None:
        """Take a ticket. ``said`` is sent with its STARTED frame, or at once if there is no ticket yet."""
        while True:
            if self._link.horizon.passed():
                self._say(said)
                said = b""
                self._link.horizon.wait()
            ticket = b"" if self._places.spoilt else self._link.ticket_now()
            if ticket is None:
                self._say(said)
                said = b""
                self._clean_up()
                _wait_readable(self._link.tickets, None)
                continue
            if not ticket:
                self._say(said)
                self._no_more()
                return None
            task = self._link.inbox.take(frames.TICKET.unpack(ticket)[0])
            self._say(said + self._begin([task.number], task.number))
            return task

    def _execute(self, task: Task) -> bytes | None:
        """Open a run and call its function; None if it is to be awaited, which the loop does."""
        call, began = None, perf_counter()
        try:
            call = self._executor.open(task)
            set_current(self._executor.current(task, call))
            if not call.is_async:
                return self._call_plain(task, call, began)
            self._hand_to_loop(task, call, call(), began)
            return None
        except BaseException as error:
            return self._outcome(task, call, error, began)

    def _call_plain(self, task: Task, call: Invocation, began: float) -> bytes | None:
        key, to_await = id(call.job), False
        if key not in self._quick and self._places.pass_on(task.number):
            self._threads.give(None)
        restore_current_loop()
        try:
            self._places.enter(task.number, threading.get_ident())
            value = call.job.function(*call.args, **call.kwargs)
            to_await = is_awaitable(value)
            if not to_await:
                return self._executor.returned(task, call, value, began)
        finally:
            self._leave(task.number, to_await=to_await)
            self._learn(key, perf_counter() - began)
        self._hand_to_loop(task, call, value, began)
        return None

    def _learn(self, key: int, took: float) -> None:
        """Learn which jobs are quick. A time between ``QUICK`` and ``SLOW`` changes nothing."""
        if took < QUICK:
            if len(self._quick) >= MOST_QUICK:
                self._quick.clear()
            self._quick.add(key)
        elif took > SLOW:
            self._quick.discard(key)

    def _hand_to_loop(self, task: Task, call: Invocation, value: Any, began: float) -> None:
        leads = self._places.pass_on(task.number)
        context = copy_context()

        def begin() -> None:
            self._loop.create_task(self._await(task, call, value, began), context=context)
            if leads:
                self._places.move(LOOP)
                self._take_on_loop()

        with contextlib.suppress(RuntimeError):  # the loop is closed: this worker was given up
            self._loop.call_soon_threadsafe(begin, context=self._context)

    # on the loop

    def _take_on_loop(self) -> None:
        """If the loop leads, take as many tickets as there are free places, and begin those runs."""
        if not self._places.claim_loop():
            self._listen(False)
            return
        if self._link.horizon.passed():
            self._places.move(LOOP)
            self._listen(False)
            self._loop.call_later(PAUSE, self._take_on_loop)
            return
        try:
            self._begin_all()
        except BlockingIOError:
            self._clean_up()
            self._places.move(LOOP)
            self._listen(True)
        except (Exception, SystemExit) as error:  # the pool is gone, or has given this worker up
            _settle(self._ended, error)

    def _begin_all(self) -> None:
        """Take tickets for all free places, and begin those runs."""
        taken = b"" if self._places.spoilt else self._link.tickets.recv(4 * self._places.free, socket.MSG_DONTWAIT)
        if len(taken) < 4:
            self._listen(False)
            self._no_more()
            return
        numbers = [number for (number,) in frames.TICKET.iter_unpack(taken)]
        plain: list[Task] = []
        tasks: list[tuple[Task, Body]] = []
        for number in numbers:
            task = self._link.inbox.take(number)
            body = self._executor.async_body(task)
            if body is None:
                plain.append(task)
            else:
                tasks.append((task, body))
        # The thread of the last plain function gets the lead, as more plain functions may follow.
        self._say(self._begin(numbers, plain[-1].number if plain else LOOP))
        began = perf_counter()
        for task, body in tasks:
            self._loop.create_task(self._call(task, body, began), context=self._context.copy())
        for task in plain:
            self._threads.give(task)
        self._listen(self._places.lead == LOOP)

    def _listen(self, listens: bool) -> None:
        """Have the loop told of tickets, or not."""
        if listens == self._listens:
            return
        self._listens = listens
        if listens:
            self._loop.add_reader(self._link.tickets.fileno(), self._take_on_loop)
        else:
            self._loop.remove_reader(self._link.tickets.fileno())

    async def _call(self, task: Task, body: Body, began: float) -> None:
        """Call the function of a run whose job is async, then as ``_await``."""
        call = None
        try:
            call = self._executor.open(task, body)
            set_current(self._executor.current(task, call))
            value = call()
        except BaseException as error:
            self._leave(task.number)
            self._tell(task.number, self._outcome(task, call, error, began))
        else:
            await self._await(task, call, value, began)

    async def _await(self, task: Task, call: Invocation, value: Any, began: float) -> None:
        """Await what the function returned, and have the outcome sent."""
        try:
            try:
                self._places.enter(task.number, asyncio.current_task())
                frame = self._executor.returned(task, call, await value, began)
            finally:
                self._leave(task.number)
                discard(value)
        except BaseException as error:
            frame = self._outcome(task, call, error, began)
        self._tell(task.number, frame)

    def _tell(self, number: int, frame: bytes) -> None:
        """Have an outcome sent, together with those of the other runs that end in this round of the loop.

        If a neighbour then keeps the loop busy, the watchdog sends it.
        """
        self._told.append((number, frame))
        if len(self._told) == 1:
            self._loop.call_soon(self._send_told, context=self._context)

    def _send_told(self) -> None:
        """Send the outcomes of runs on the loop, and take tickets for their places."""
        try:
            leads = self._send(LOOP)
        except OSError as error:
            _settle(self._ended, error)
            return
        if leads:
            self._take_on_loop()
        elif self._places.lead != LOOP:  # it has cleaned up when it had no ticket
            self._clean_up()
            self._end_if_done()

    def _send(self, heir: int) -> bool:
        """Send the outcomes that are told; whether ``heir`` leads now."""
        told = []
        with contextlib.suppress(IndexError):
            while True:  # one by one, as the watchdog may do the same now
                told.append(self._told.popleft())
        self._say(b"".join([frame for _, frame in told]))
        leads = False
        for number, _ in told:
            self._places.forget(number)
            leads = self._places.vacate(heir) or leads
        return leads

    # the watchdog

    def _watch(self) -> None:
        """Help where a quick job is slow once, or the loop is blocked: take the lead away if it is kept while tickets
        wait, and send the outcomes that the loop does not send."""
        seen, pause, unsent = -1, FIRST_LOOK, None
        while not self._closed:
            sleep(pause)
            last, unsent = unsent, next(iter(self._told.copy()), None)
            if unsent is not None and unsent is last:
                self._send_for_loop()
            taken = self._places.taken
            if taken != seen:
                seen, pause = taken, FIRST_LOOK
                continue
            if self._places.running and _is_readable(self._link.tickets) and self._places.depose(seen):
                self._threads.give(None)
            if not self._places.running and pause == LAST_LOOK:
                self._rest(seen)
            pause = min(2 * pause, LAST_LOOK)

    def _send_for_loop(self) -> None:
        try:
            if self._send(TAKING):
                self._threads.give(None)
        except OSError as error:
            self._end(error)

    def _rest(self, seen: int) -> None:
        """Sleep until a ticket is taken."""
        self._stirred.clear()
        if self._places.taken == seen and not self._places.over:
            self._stirred.wait()


class Threads:
    """Threads made as they are needed. They are daemons, so that a job that never ends does not block the exit."""

    def __init__(self, work: Any) -> None:
        self._work = work
        self._made = 0
        self._idle = threading.Semaphore(0)
        self._given: SimpleQueue[tuple[Task | None] | None] = SimpleQueue()

    def give(self, task: Task | None) -> None:
        """Have a thread execute this run, or, without a run, become the leader."""
        self._given.put((task,))
        if not self._idle.acquire(blocking=False):
            self._made += 1
            threading.Thread(target=self._serve, name=f"skunkqueue-job-{self._made}", daemon=True).start()

    def _serve(self) -> None:
        while (given := self._given.get()) is not None:
            self._work(*given)
            del given
            self._idle.release()

    def end(self) -> None:
        """Let the threads end when they are idle."""
        for _ in range(self._made):
            self._given.put(None)


def _wait_readable(tickets: socket.socket, seconds: float | None) -> bool:
    poll = select.poll()
    poll.register(tickets, select.POLLIN)
    return bool(poll.poll(None if seconds is None else seconds * 1000))


def _is_readable(tickets: socket.socket) -> bool:
    try:
        return _wait_readable(tickets, 0.0)
    except (OSError, ValueError):  # closed
        return False


def _settle(future: asyncio.Future[None], error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
