"""Keeps working after the script's last line: a non-daemon thread, and signal handlers meanwhile."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from skunkqueue.signals import catch
from skunkqueue.spool import last_line
from skunkqueue.worker import Pool

OVERDUE: Final = 0.3
"""Seconds after which a signal that Python has not handled is sent once more."""


class Background:
    """Keeps the process alive while ``pool`` works, and stops it on signals; ``ended`` is called when it has stopped.

    Signals can be caught on the main thread only; started from another thread, it leaves them alone.
    """

    def __init__(self, pool: Pool, ended: Callable[[], None]) -> None:
        self._pool = pool
        self._ended = ended
        self._keeper: threading.Thread | None = None
        self._previous: dict[int, Any] = {}
        self._answered = 0
        self._woken = -1
        self._script_over = False

    def start(self) -> None:
        """Start the keeper thread, unless it runs."""
        if self._keeper is not None and self._keeper.is_alive():
            return
        if threading.current_thread() is threading.main_thread():
            self._catch()
            if last_line.IS_NEEDED:
                last_line.before_the_end(self._outlive)
        self._keeper = threading.Thread(target=self._keep, name="skunkqueue-keeper")
        self._keeper.start()

    def _outlive(self) -> None:
        """On the main thread, after the script's last line: stay until the pool has stopped."""
        self._script_over = True
        if self._keeper is not None:
            self._keeper.join()

    def wait(self) -> None:
        """Wait until it has stopped; on the main thread signals are then as they were before."""
        self._pool.join()
        self._ended()
        if threading.current_thread() is threading.main_thread():
            self._restore()

    def _keep(self) -> None:
        # Python handles signals on the main thread, but not while that is in a system call that it entered just when
        # the signal came. So this thread reads all signals too (set_wakeup_fd), and sends an unhandled one once more.
        seen = self._answered
        poll = select.poll()
        if self._woken >= 0:
            poll.register(self._woken, select.POLLIN)
        while self._pool.running:
            if self._woken < 0:
                self._pool.join()
            elif poll.poll(OVERDUE * 1000):
                numbers = os.read(self._woken, 512)
                if not numbers:
                    break  # the signals were restored
                seen += sum(number in self._previous for number in numbers)
                self._insist(seen, numbers[-1])
        self._ended()

    def _insist(self, seen: int, number: int) -> None:
        pause = threading.Event()
        while self._answered < seen and self._pool.running and not pause.wait(OVERDUE):
            if self._answered < seen:  # Python merges two pending signals into one
                signal.pthread_kill(threading.main_thread().ident or 0, number)

    def _catch(self) -> None:
        self._previous = catch(self._on_signal) | self._previous
        self._woken, end = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(end, False)
        other = signal.set_wakeup_fd(end, warn_on_full_buffer=False)
        if other >= 0:  # an event loop runs here, and gets signals by itself
            signal.set_wakeup_fd(other)
            os.close(end)
            os.close(self._woken)
            self._woken = -1

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Stop the pool; then, if the main thread still runs, do what the signal would have done without us."""
        self._answered += 1
        self._pool.on_signal(number, frame)
        if self._script_over or not threading.main_thread().is_alive():
            return
        previous = self._previous.get(number)
        if callable(previous):
            previous(number, frame)
        else:
            self.wait()
            os.kill(os.getpid(), number)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            if signal.getsignal(number) == self._on_signal:
                signal.signal(number, handler)
        self._previous.clear()
        if self._woken >= 0:
            end = signal.set_wakeup_fd(-1)
            with contextlib.suppress(OSError):
                os.close(end)
            if self._keeper is not None and self._keeper is not threading.current_thread():
                self._keeper.join()
            os.close(self._woken)
            self._woken = -1
