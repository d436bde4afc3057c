"""Executes ripe runs on the calling thread, one after the other, with no worker and no waiting: for tests."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextvars import Context, copy_context
from types import FrameType
from typing import Any, Final

from skunkqueue.clock import Clock, ticks
from skunkqueue.draining import draining
from skunkqueue.envelope import Claim, Exchange, Outcome, Want
from skunkqueue.errors import Interrupted, SkunkError
from skunkqueue.handlers.ends import Ends
from skunkqueue.ids import new_token
from skunkqueue.limits.serial import taking
from skunkqueue.persistence import Persister, Source
from skunkqueue.persistence.put import put
from skunkqueue.routes import with_priorities
from skunkqueue.schedules.registry import registry
from skunkqueue.worker import frames
from skunkqueue.worker.child.execute import Executor, Task
from skunkqueue.worker.child.main import import_all
from skunkqueue.worker.child.resolve import Resolver
from skunkqueue.worker.child.serial import Serial, SerialThread
from skunkqueue.worker.pool.completer import Completer, Reader, not_kept, refused, taken
from skunkqueue.worker.pool.isolate import exchange_isolated
from skunkqueue.worker.pool.log import Log
from skunkqueue.worker.pool.log_entry import WARNING, LogEntry
from skunkqueue.worker.pool.settings import Settings
from skunkqueue.worker.pool.slot import Held, Slot

FOREVER: Final = float("inf")

Routes = Callable[[], Sequence[str]]


def drain(
    source: Source,
    clock: Clock,
    settings: Settings,
    log: Log,
    routes: Routes,
    errors: dict[str, BaseException] | None = None,
) -> None:
    """Execute here the ripe runs of the routes, and those that they fire, until none is left.

    ``routes`` is called again when no run is left on the routes that it gave before. ``errors`` is given what jobs
    raised, by run: the exception itself, of the last attempt that raised one.
    """
    wrong = import_all(list(settings.imports))
    if wrong is not None:
        raise SkunkError(wrong)
    Drain(source, clock, settings, log, routes, copy_context(), {} if errors is None else errors).run()


class Drain:
    """Pool and worker in one, on one thread. Each run gets a copy of ``context``."""

    def __init__(
        self,
        source: Source,
        clock: Clock,
        settings: Settings,
        log: Log,
        routes: Routes,
        context: Context,
        errors: dict[str, BaseException],
    ) -> None:
        self._parts = source, clock, settings, log, routes, context, errors
        self._source = source
        self._clock = clock
        self._settings = settings
        self._log = log
        self._routes = routes
        self._context = context
        self._pid = os.getpid()
        self._slot = Slot(settings.name, "drain", settings.queue, "", 1)
        self._completer = Completer(clock, log, settings.patience, is_timed=isinstance(source, Persister))
        self._reader = Reader(self._completer, lambda: None, lambda why: None)
        self._splitter = frames.Splitter()
        self._lock = threading.RLock()  # threads of a job report progress too
        self._number = 0
        self._permit: Claim | None = None  # under which the current run is executed
        self._due: list[int] = []  # runs to be interrupted
        self._ends = Ends(settings.queue)
        executor = Executor(self.write, Resolver(settings.jobs, settings.queue), max_result=settings.max_payload)
        self._worker = (_Passing if _is_main_thread() else _OnThread)(self, executor)
        self._worker.errors = errors
        self._watch = _Watch(self._interrupt, self._extend, settings.lease / 3)

    def run(self) -> None:
        """Execute all ripe runs."""
        with self._working():
            while self._run_all() or self._settle():
                pass

    def run_one(self) -> bool:
        """Execute one run, if one is ripe; returns whether there was one."""
        with self._working():
            routes = self._routes()
            claim = self._claim(routes)
            if claim is not None:
                self._execute(claim)
                self._exchange()
            return claim is not None or self._take_turn(routes) or self._settle()

    def _run_all(self) -> bool:
        """Execute the ripe runs of the current routes; returns whether there were any."""
        routes, found = self._routes(), False
        while (claim := self._claim(routes)) is not None:
            found = True
            self._execute(claim)
        while self._take_turn(routes):
            found = True
        return found

    def _take_turn(self, routes: Sequence[str]) -> bool:
        """Take one turn of limited runs, which is one run or none; returns whether there was one to take."""
        if not isinstance(self._source, Persister):
            return False
        self._exchange()
        with taking(self._source, self._settings, self._slot.name, routes, self._clock) as turn:
            self._permit = turn.permit
            if turn.run is not None:
                self._execute(turn.run)
                self._exchange()
            self._permit = None
        return turn.is_there

    def _settle(self) -> bool:
        """Let go what waits for runs that have ended, and make the ticks that have come; returns whether any did."""
        if not isinstance(self._source, Persister):
            return False
        from skunkqueue.gates.settle import settle

        self._exchange()
        return settle(self._source, self._settings.queue, now=self._clock.now(), lease=self._settings.lease)

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        """In this context, what one of our jobs waits for is executed here, and interrupts reach the job."""
        before, draining.step = draining.step, lambda: Drain(*self._parts).run_one()
        try:
            with _without_running_loop(), self._catching(), contextlib.closing(self._worker), self._watch:
                yield
        finally:
            draining.step = before

    # the path of a run

    def _claim(self, routes: Sequence[str]) -> Claim | None:
        """Commit what has ended, and claim the next run."""
        sub_routes = tuple(sub_route for route in routes for sub_route in with_priorities(route))
        want = Want(self._settings.queue, sub_routes, self._slot.name, new_token(), 1)
        return next(iter(self._exchange([want]).claims), None)

    def _exchange(self, wants: Sequence[Want] = ()) -> Exchange:
        with self._lock:
            outcomes, reports = self._completer.take()
            now = self._clock.now()
            until = now + self._settings.lease
            self._call_handlers(outcomes, now)
            result = exchange_isolated(self._source, outcomes, wants, now=now, until=until, trouble=self._trouble)
            for (claim, _), report in zip(outcomes, reports, strict=True):
                self._report(claim, report, result)
            return result

    def _call_handlers(self, outcomes: Sequence[tuple[Claim, Outcome]], now: float) -> None:
        """Put the runs of the handlers that this process declares, before what they are called for is committed."""
        if not registry.handlers or not isinstance(self._source, Persister):
            return
        from skunkqueue.schedules.declared import announced_here  # late: few programs have handlers

        told = announced_here(self._settings.queue, self._settings.url)
        self._ends.hear(told.handlers)
        runs = self._ends.runs(outcomes, now)
        if runs:
            put(self._source, runs)

    def _trouble(self, text: str) -> None:
        self._log.say(f"warning: {text}", what="warning", level=WARNING)

    def _report(self, claim: Claim, report: LogEntry | None, result: Exchange) -> None:
        if claim.id in result.refused:
            report = not_kept(claim, report, result.refused[claim.id])
        elif claim.id not in result.taken:
            report = refused(claim, report)
        self._log.say_all([report])

    def _execute(self, claim: Claim) -> None:
        held = self._completer.admit(self._slot, claim)
        if held is None or (held.careful and not self._is_marked(held)):
            return
        self._log.say_all([taken(self._slot, held)])
        self._number += 1
        held.number, held.since = self._number, ticks()
        self._slot.held[held.number] = held
        task = Task(held.number, held.attempt, claim.id, claim.envelope.body)
        with self._watch.over(held):
            frame = self._context.copy().run(self._worker.run, task)
        if os.getpid() != self._pid:
            os._exit(0)  # the job forked, and this is the child process
        self._conclude(held, frame)

    def _is_marked(self, held: Held) -> bool:
        """Mark a careful run as started in the store; returns whether the store took that."""
        self._completer.mark(held)
        return held.claim.id in self._exchange().taken

    def _conclude(self, held: Held, frame: bytes) -> None:
        passing, self._worker.passing = self._worker.passing, None
        if passing is not None:
            held.cause = held.cause or "stop"
        self.write(frame)
        if passing is not None:
            self._exchange()
            raise passing

    # the worker's link to its pool

    def write(self, frame: bytes) -> None:
        """Read what the worker reports."""
        with self._lock:
            self._reader.take_in(self._slot, *self._splitter.join(frame))
            if frames.HEAD.unpack_from(frame)[1] == frames.PROGRESS:
                self._exchange()

    def interrupts(self) -> list[int]:
        """The numbers of the runs to be interrupted."""
        due, self._due = self._due, []
        return due

    # interrupts, from the thread of the watch

    def _interrupt(self, held: Held, cause: str) -> None:
        held.cause = held.cause or cause
        if isinstance(self._worker, _OnThread):
            self._worker.interrupt(held.number)
        else:
            self._due.append(held.number)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGURG)

    def _extend(self, held: Held) -> None:
        until = self._clock.now() + self._settings.lease
        claims = [held.claim] if self._permit is None else [held.claim, self._permit]
        with contextlib.suppress(SkunkError):  # the source is away: it may be back in time
            if not {claim.id for claim in claims} <= self._source.extend(claims, until=until):
                self._interrupt(held, "lost")

    @contextlib.contextmanager
    def _catching(self) -> Iterator[None]:
        """On the main thread, interrupts come as a signal, so that a sleep wakes."""
        if isinstance(self._worker, _OnThread):
            yield
            return
        before = signal.getsignal(signal.SIGURG)

        def on_signal(number: int, frame: FrameType | None) -> None:
            if self._due:
                self._worker.on_signal(number, frame)
            elif callable(before):
                before(number, frame)

        signal.signal(signal.SIGURG, on_signal)
        try:
            yield
        finally:
            signal.signal(signal.SIGURG, signal.SIG_DFL if before is None else before)


class _Passing(Serial):
    """Keeps an error that ends more than the run, to raise it again: Ctrl-C, or the interrupt of a waiting job."""

    passing: BaseException | None = None
    errors: dict[str, BaseException]

    def __init__(self, link: Any, executor: Executor) -> None:
        super().__init__(link, executor)

    def _outcome(self, task: Task, call: Any, error: BaseException, began: float) -> bytes:
        if isinstance(error, KeyboardInterrupt) or (isinstance(error, Interrupted) and self._hit != task.number):
            self.passing = error
        self.errors[task.id] = error
        return super()._outcome(task, call, error, began)


class _OnThread(_Passing, SerialThread):
    """For a thread other than the main one: an interrupt waits until the job executes Python again."""

    def __init__(self, link: Any, executor: Executor) -> None:
        super().__init__(link, executor)
        self._ident = threading.get_ident()


class _Watch:
    """A thread that interrupts the run when its time is up, and has its lease extended."""

    def __init__(self, interrupt: Callable[[Held, str], None], extend: Callable[[Held], None], every: float) -> None:
        self._interrupt = interrupt
        self._extend = extend
        self._every = every
        self._changed = threading.Condition()
        self._held: Held | None = None
        self._timeout_at = self._extend_at = FOREVER
        self._ended = False

    def __enter__(self) -> None:
        threading.Thread(target=self._serve, name="skunkqueue-drain", daemon=True).start()

    def __exit__(self, *exception: object) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()

    @contextlib.contextmanager
    def over(self, held: Held) -> Iterator[None]:
        """Watch over this run."""
        timeout = held.seal.timeout
        with self._changed:
            self._held = held
            self._extend_at = ticks() + self._every
            self._timeout_at = FOREVER if timeout is None else held.since + timeout
            self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._held = None
                self._timeout_at = self._extend_at = FOREVER

    def _serve(self) -> None:
        while (due := self._next()) is not None:
            held, is_over = due
            if is_over:
                self._interrupt(held, "timeout")
            else:
                self._extend(held)

    def _next(self) -> tuple[Held, bool] | None:
        """Wait until a run's time is up (True) or its lease is to be extended; None at the end."""
        with self._changed:
            while not self._ended:
                now = ticks()
                if self._held is not None and now >= self._timeout_at:
                    self._timeout_at = FOREVER
                    return self._held, True
                if self._held is not None and now >= self._extend_at:
                    self._extend_at = now + self._every
                    return self._held, False
                left = min(self._timeout_at, self._extend_at) - now
                self._changed.wait(None if left == FOREVER else left)
            return None


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def _without_running_loop() -> Iterator[None]:
    """Hide a loop that runs on this thread from the jobs: they may run loops of their own, as in a worker."""
    asyncio: Any = sys.modules.get("asyncio")
    loop = None if asyncio is None else asyncio._get_running_loop()
    if loop is None:
        yield
        return
    swap = getattr(asyncio.tasks, "_swap_current_task", None)  # since Python 3.12
    task = None if swap is None else swap(loop, None)
    asyncio._set_running_loop(None)
    try:
        yield
    finally:
        asyncio._set_running_loop(loop)
        if swap is not None:
            swap(loop, task)
