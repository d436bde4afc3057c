"""The folder, umask, timers and signal handlers of a worker process: what a job does to them, no later job notices."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
from collections.abc import Callable
from typing import Any, Final

from skunkqueue.worker.child.stdio import stdio

HOW_OFTEN: Final = 0.02
"""Seconds between two checks while runs come without a pause, for what is not noticed at once. Each takes some µs."""

_WATCHED: Final = (
    (os, ("chdir", "fchdir", "umask")),
    (signal, ("signal", "alarm", "setitimer")),
)
"""The functions whose calls are noticed, so that what they change is undone before the next run."""

_chdir, _umask, _signal, _setitimer = os.chdir, os.umask, signal.signal, signal.setitimer

_TIMERS: Final = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)


class Surroundings:
    """Those of this process, and its streams (``stdio``). Without ``install`` all of them are left alone."""

    def __init__(self) -> None:
        self.check_at: float = 0.0
        """Seconds of time.perf_counter from which ``restore_in_time`` is to be called between two runs."""
        self.has_other_handlers: bool = False
        """Whether a job has set handlers or timers, which only the main thread can undo."""
        self._is_installed = False
        self._folder = ""
        self._place = (0, 0)
        self._mask = 0
        self._handlers: dict[int, Any] = {}
        self._timers: tuple[float, ...] = ()

    def install(self) -> None:
        """Watch over them from now on."""
        stdio.install()
        self._is_installed = True
        for module, names in _WATCHED:
            for name in names:
                setattr(module, name, self._noticed(getattr(module, name), module.__name__))
        self.note_usual()

    def _noticed(self, function: Callable[..., Any], module: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            self.check_at = 0.0
            self.has_other_handlers = self.has_other_handlers or module == "signal"
            return function(*args, **kwargs)

        call.__module__ = module  # so that it pickles
        for supporting in (os.supports_fd, os.supports_follow_symlinks):
            if function in supporting:
                supporting.add(call)
        return call

    def note_usual(self) -> None:
        """Note how they are without any job: called when modules were imported for jobs, which may have set them."""
        if not self._is_installed:
            return
        stdio.note_usual()
        with contextlib.suppress(OSError):
            self._folder, self._place = os.getcwd(), _place()
        self._mask = _umask(0o077)
        _umask(self._mask)
        self._handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
        self._timers = tuple(signal.getitimer(which)[0] for which in _TIMERS)

    def restore_in_time(self, now: float) -> None:
        """As ``restore``, and note when to do so next; ``now`` is of time.perf_counter."""
        self.check_at = now + HOW_OFTEN
        self.restore()

    def restore(self) -> None:
        """Between two runs: undo what the jobs did."""
        stdio.restore()
        self._restore()

    def restore_all(self) -> None:
        """As ``restore``, with the streams that were redirected. Not while a job runs."""
        stdio.restore_all()
        self._restore()

    def _restore(self) -> None:
        if not self._is_installed:
            return
        _umask(self._mask)
        try:
            has_moved = _place() != self._place
        except OSError:  # the folder is gone
            has_moved = True
        if has_moved:
            with contextlib.suppress(OSError):
                _chdir(self._folder)
        if threading.current_thread() is threading.main_thread():
            self._restore_handlers()

    def _restore_handlers(self) -> None:
        self.has_other_handlers = False
        for which, usual in zip(_TIMERS, self._timers, strict=True):
            if not usual and signal.getitimer(which)[0]:
                _setitimer(which, 0)
        for number, usual in self._handlers.items():
            # None is a handler that is not Python's.
            if usual is not None and signal.getsignal(number) not in (usual, None):
                with contextlib.suppress(OSError, ValueError):
                    _signal(number, usual)


def _place() -> tuple[int, int]:
    found = os.stat(".")
    return found.st_dev, found.st_ino


surroundings: Final = Surroundings()
"""Those of this process. If the workers are threads, they are the program's own, and left alone."""
