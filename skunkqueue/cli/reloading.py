"""What has skunq work start new workers: a change of a Python file, with --reload, and SIGUSR2."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from skunkqueue.distribution import pip_install, with_extra
from skunkqueue.errors import WrongCall

if TYPE_CHECKING:
    from skunkqueue.worker import WorkerPool

SETTLED: Final = 200
"""Milliseconds: changes that come within this time are one, as editors and version control write many files."""

MOST_NAMED: Final = 3
"""Changed files that the log names."""


class Reloading:
    """``folders`` are watched if ``is_on`` or any is given; by default the current one. Raises WrongCall."""

    def __init__(self, is_on: bool, folders: Sequence[str]) -> None:
        self.is_on: bool = is_on or bool(folders)
        self._folders = [os.path.abspath(folder) for folder in folders or [os.curdir]]
        self._pool: WorkerPool | None = None
        if self.is_on and find_spec("watchfiles") is None:
            raise WrongCall(f"--reload needs watchfiles: {pip_install(with_extra('reload'))}")

    @contextlib.contextmanager
    def on_signal(self) -> Iterator[None]:
        """Reload on SIGUSR2, once there is a pool; without a handler, the signal would end the process."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGUSR2, lambda *_: self._reload("SIGUSR2"))
        try:
            yield
        finally:
            signal.signal(signal.SIGUSR2, before)

    @contextlib.contextmanager
    def of(self, pool: WorkerPool) -> Iterator[None]:
        """Reload the workers of this pool, in this context."""
        self._pool = pool
        if not self.is_on:
            yield
            return
        from dataclasses import replace  # late: it loads inspect

        pool.settings = replace(pool.settings, reload=True)
        ended = threading.Event()
        thread = threading.Thread(target=self._watch, args=(pool, ended), name="skunkqueue-reload", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(1)

    def _watch(self, pool: WorkerPool, ended: threading.Event) -> None:
        from watchfiles import PythonFilter, watch

        shown = ", ".join(self._folders)
        try:
            changes = watch(
                *self._folders,
                watch_filter=PythonFilter(),
                debounce=SETTLED,
                step=SETTLED // 2,
                rust_timeout=500,
                yield_on_timeout=True,
                stop_event=ended,
                raise_interrupt=False,
                ignore_permission_denied=True,
            )
            is_told = False
            for changed in changes:
                if not is_told:
                    is_told = True
                    pool.say(f"watching {shown} for changes")
                if changed:
                    self._reload(f"{self._named(sorted(path for _, path in changed))} changed")
        except Exception as error:
            pool.say(f"changes in {shown} are no longer noticed ({type(error).__name__}: {error}); SIGUSR2 reloads")

    def _reload(self, why: str) -> None:
        if self._pool is not None:
            self._pool.reload(why)

    def _named(self, paths: Sequence[str]) -> str:
        named = ", ".join(os.path.relpath(path) for path in paths[:MOST_NAMED])
        more = len(paths) - MOST_NAMED
        return f"{named} and {more} more" if more > 0 else named
