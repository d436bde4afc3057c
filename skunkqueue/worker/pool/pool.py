"""WorkerPool, the public class that runs workers: starts the engine, handles signals, waits for the end."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from math import inf
from types import FrameType, TracebackType
from typing import Any, Final, Self, TextIO

from skunkqueue.clock import Clock, ticks
from skunkqueue.durations import Duration, seconds
from skunkqueue.errors import SkunkError, WrongCall
from skunkqueue.persistence import Source
from skunkqueue.printable import said
from skunkqueue.queue import SkunkQueue
from skunkqueue.routes import check_name
from skunkqueue.signals import ROUGH_SIGNALS, catch, catch_continued, give_back
from skunkqueue.worker.pool.engine import GENTLE, KILL, ROUGH, Engine
from skunkqueue.worker.pool.log import Log
from skunkqueue.worker.pool.log_entry import LogEntry
from skunkqueue.worker.pool.settings import Settings

FURTHER: Final = {GENTLE: "; a second signal interrupts it", ROUGH: "; a third signal kills"}
"""What further signals do, by what the first has done."""
ABANDON: Final = 3.0
"""Seconds after a third signal, from which the pool ends without its engine, whatever that hangs in."""


class Pool:
    """Workers on any source: starts the engine on a thread of its own, answers signals, waits for the end.

    Entering it (``with``) starts the workers; leaving is gentle. A stop that comes while nothing runs makes the next
    start stop at once; a pool that has ended can be started again. It also serves sources other than stores, see
    docs/sources.md. ``clock`` is the source's, ``log`` gets an entry for each event. The pool closes neither the source
    nor the log for good: both can be used again.
    """

    def __init__(self, source: Source, clock: Clock, settings: Settings, log: Log) -> None:
        self.settings = settings
        self._source = source
        self._clock = clock
        self._log = log
        self._engine: Engine | None = None
        self._thread: threading.Thread | None = None
        self._trouble: BaseException | None = None
        self._lock = threading.RLock()  # a signal handler may run while this thread holds it
        self._signals = 0
        self._abandon_at = inf  # ticks from which nobody waits for the engine any more, whatever it hangs in
        self._wished = 0  # how to stop: what is running, or else what is started next
        self._entered = False
        self._launching = False  # an engine is there whose thread is about to run; only a signal can see this

    # people's verbs

    def listen(self) -> None:
        """Work until stopped by a signal, ``shutdown`` or ``die``. On the main thread it answers signals.

        Raises SkunkError with a sentence when a worker cannot be started at all (a failing import).
        """
        self._serve()

    def run_until_idle(self) -> None:
        """Work until nothing is ripe and nothing is running; what is due later stays."""
        self._serve(burst=True)

    def start(self, *, burst: bool = False) -> None:
        """Start the workers in the background, unless they are there; those that are stopping are waited for first.

        Raises WrongCall or StoreError at once.
        """
        while not self._started(burst):
            self.join()

    def shutdown(self) -> None:
        """Stop gently: the current jobs finish. Returns at once; ``listen`` or leaving the ``with`` waits.

        If nothing runs yet, the next start stops at once.
        """
        self._stop(GENTLE)

    def die(self) -> None:
        """Stop roughly: the current jobs are interrupted, and go back with no attempt spent. Returns at once."""
        self._stop(ROUGH)

    def reload(self, why: str = "reload") -> None:
        """Start new worker processes, which import the code as it is now; the old ones finish what they run.

        Returns at once. Runs that the old ones had not started go back with no attempt spent. If a module cannot be
        imported any more, the log says so, and the workers wait for the next reload. ``why`` begins the line in the
        log. Raises WrongCall where the workers are threads.
        """
        if self.settings.in_process:
            raise WrongCall(
                "workers on threads cannot import anew what this process has imported: leave out in_process"
            )
        engine = self._engine
        if engine is not None:
            engine.reload(why)

    def join(self) -> None:
        """Wait until the workers have ended. From any thread; a job must not wait for its own pool."""
        # In slices: a signal that comes just before a wait begins is only handled when that wait is over.
        while self._thread is not None and self._thread.is_alive() and ticks() < self._abandon_at:
            self._thread.join(0.5)

    def raise_failure(self) -> None:
        """Raise what has ended the workers, if they did not end well; once."""
        trouble, self._trouble = self._trouble, None
        if trouble is not None:
            raise trouble

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: the first stops gently or roughly, by its kind; a second stops roughly, a third kills."""
        self._signals += 1
        if self._signals == KILL:
            self._abandon_at = ticks() + ABANDON
        first = ROUGH if signal.Signals(number).name in ROUGH_SIGNALS else GENTLE
        self._stop(max(first, min(self._signals, KILL)), FURTHER[first])

    def observe(self, see: Callable[[LogEntry], None]) -> None:
        """Show each entry of the log to ``see`` too, on the pool's thread, to count them for instance. It must be quick
        and must not raise.
        """
        self._log.observe(see)

    def say(self, text: str) -> None:
        """Write a sentence into the pool's log."""
        self._log.say(text)
        self._log.flush()

    @property
    def running(self) -> bool:
        """Whether the workers are there."""
        return self._thread is not None and self._thread.is_alive()

    def __enter__(self) -> Self:
        self.start()
        self._entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop(GENTLE if kind is None or issubclass(kind, Exception) else ROUGH)
        self.join()
        self._entered = False
        self.forget_stop()
        self._released()
        if kind is None:
            self.raise_failure()

    # internals

    def _serve(self, *, burst: bool = False) -> None:
        with self._lock:
            if not self._entered:
                self._forget_ended()
        caught = self._catch_signals()  # first, so that no signal can kill in between
        try:
            with self._lock:
                # One that was stopped between entering the pool and here is not started again.
                if self.running or self._engine is None or not self._wished:
                    self._launch(burst)
            self.join()
        finally:
            give_back(caught)
            self.forget_stop()
        self.raise_failure()

    def _started(self, burst: bool) -> bool:
        """Start the workers, unless they are there; False while they are stopping."""
        with self._lock:
            if self.running and self._wished:
                return False
            self._forget_ended()
            self._launch(burst)
            return True

    def _launch(self, burst: bool) -> None:
        """Start the engine, or wake the running one."""
        if self._engine is not None and self.running:
            if burst:
                self._engine.end_when_idle()
            return
        self._source, self._clock = self._opened()
        self._launching = True
        try:
            self._start_engine(burst)
        finally:
            self._launching = False

    def _start_engine(self, burst: bool) -> None:
        self._engine = engine = Engine(self._source, self._clock, self.settings, self._log)
        if burst:
            engine.end_when_idle()
        self._trouble = None
        if self._wished:
            engine.stop(self._wished)  # a stop came before there was an engine
        name = f"skunkqueue-pool-{self.settings.name}"
        self._thread = threading.Thread(target=self._run, args=(engine,), name=name, daemon=True)
        self._thread.start()

    def _forget_ended(self) -> None:
        """Forget an engine that has ended, and the stop that ended it."""
        if self._engine is not None and not self.running and not self._launching:
            self._engine, self._signals, self._wished, self._abandon_at = None, 0, 0, inf

    def forget_stop(self) -> None:
        """Forget an earlier stop, after the workers have ended: a later stop is for the next start."""
        with self._lock:
            if not self.running:
                self._engine, self._signals, self._wished, self._abandon_at = None, 0, 0, inf

    def _opened(self) -> tuple[Source, Clock]:
        """What the workers are to work on."""
        return self._source, self._clock

    def _released(self) -> None:
        """After the ``with`` block: close what only this pool has opened."""

    def _run(self, engine: Engine) -> None:
        try:
            engine.run()
            if engine.failure is not None:
                self._trouble = SkunkError(engine.failure)
        except BaseException as error:
            self._trouble = error
        finally:
            self._log.close()

    def _stop(self, level: int, further: str = "") -> None:
        with self._lock:
            self._forget_ended()
            self._wished = max(self._wished, level)
            if self._engine is not None:
                self._engine.stop(level, further)

    def _catch_signals(self) -> dict[int, Any]:
        if threading.current_thread() is not threading.main_thread():
            return {}
        return {**catch(self.on_signal), **catch_continued(self._continue)}

    def _continue(self, number: int, frame: FrameType | None) -> None:
        """After SIGCONT: a wait that had just begun would go on for as long as it was meant to last."""
        if self._engine is not None:
            self._engine.poke()


class WorkerPool(Pool):
    """Parent and monitor of workers, one per listed route (a route named twice gets two).

    ``queue`` is a SkunkQueue, or its name with ``conn_url``, ``backend`` and ``dbname`` as there. Durations are
    seconds, timedeltas or texts like "5m": ``lease`` is how long a run stays with a pool that vanished,
    ``patience`` how long a run waits for a worker that knows its job, ``kill_after`` how long an interrupted job
    may take to come back before its worker is killed, ``grace`` how long a gentle stop waits before it turns rough
    (None: as long as the jobs take). ``max_runs`` renews a worker process after so many runs. With ``in_process``
    workers are threads of this process. ``imports`` are modules that workers import when they start. ``log`` is a
    text stream; by default stderr, or the logger ``skunkqueue.worker`` where logging has been set up; with
    ``log_format="json"`` it is a JSON document a line.

    Raises WrongCall for invalid options.
    """

    def __init__(
        self,
        queue: SkunkQueue | str,
        routes: str | Sequence[str] = "default",
        conn_url: str | None = None,
        backend: str | None = None,
        dbname: Any = None,
        *,
        concurrency: int = 1,
        lease: Duration = 15,
        patience: Duration = 600,
        kill_after: Duration = 5,
        grace: Duration | None = None,
        max_runs: int | None = None,
        in_process: bool = False,
        imports: str | Sequence[str] = (),
        max_payload: int | None = None,
        log: TextIO | None = None,
        log_format: str = "text",
        verbose: bool = False,
    ) -> None:
        self._owns_queue = not isinstance(queue, SkunkQueue)
        self.queue: SkunkQueue = SkunkQueue(queue, conn_url, backend, dbname) if isinstance(queue, str) else queue
        self.routes: tuple[str, ...] = _routes(routes)
        self.name: str = pool_name()
        settings = Settings(
            name=self.name,
            queue=self.queue.name,
            routes=self.routes,
            concurrency=_whole(concurrency, "concurrency"),
            lease=_above_zero(lease, "lease"),
            patience=seconds(patience, "patience"),
            kill_after=seconds(kill_after, "kill_after"),
            grace=None if grace is None else seconds(grace, "grace"),
            max_runs=None if max_runs is None else _whole(max_runs, "max_runs"),
            in_process=bool(in_process),
            max_payload=self.queue.max_payload if max_payload is None else _whole(max_payload, "max_payload"),
            imports=(imports,) if isinstance(imports, str) else tuple(imports),
            url=self.queue.full_url,
        )
        super().__init__(self.queue.store, self.queue.clock, settings, Log(log, verbose=verbose, format=log_format))

    def _opened(self) -> tuple[Source, Clock]:
        return self.queue.store, self.queue.clock  # anew: a pool may be entered again after it has closed its queue

    def _released(self) -> None:
        if self._owns_queue:
            self.queue.close()


def _routes(routes: str | Sequence[str]) -> tuple[str, ...]:
    if not isinstance(routes, str | Iterable):
        raise WrongCall(f'routes are a name or a list of names, like ["foo", "bar"]; got {said(routes)}')
    listed = (routes,) if isinstance(routes, str) else tuple(routes)
    if not listed:
        raise WrongCall('a pool serves one route or more, got none; a job without routes is on "default"')
    return tuple(check_name(route, "route") for route in listed)


def pool_name() -> str:
    host = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())[:40]
    return f"{host}-{os.getpid()}-{os.urandom(2).hex()}"


def _whole(value: int, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise WrongCall(f"{what} is a whole number of 1 or more, got {value!r}")
    return value


def _above_zero(value: Duration, what: str) -> float:
    found = seconds(value, what)
    if found < 0.1:
        raise WrongCall(f"{what} is at least 0.1 seconds, got {value!r}")
    return found
