"""The worker process: takes runs from its pool, executes them, reports outcomes. It opens no store."""

from __future__ import annotations

import importlib
import json
import os
import signal
import threading
from collections.abc import Callable, Mapping
from typing import Any

from skunkqueue.connection import take_pool_url
from skunkqueue.job import Carried, while_importing
from skunkqueue.worker import frames
from skunkqueue.worker.child.announcer import Announcer
from skunkqueue.worker.child.execute import Executor
from skunkqueue.worker.child.link import Ends, Link
from skunkqueue.worker.child.resolve import Resolver
from skunkqueue.worker.child.serial import Serial, SerialThread
from skunkqueue.worker.child.surroundings import surroundings
from skunkqueue.worker.hook import Hook
from skunkqueue.worker.title import set_title


def die_with(parent: int) -> None:
    """Be killed when the pool's thread that started this process ends, however it ends (Linux)."""
    import ctypes

    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):
        return
    if os.getppid() != parent:
        os._exit(1)


def import_all(modules: list[str]) -> str | None:
    """Import the modules of the pool's ``imports``; returns what went wrong."""
    for name in modules:
        try:
            with while_importing():
                importlib.import_module(name)
        except BaseException as error:
            return f"cannot import {name}: {type(error).__name__}: {error}"
    return None


def _nothing(*_: object) -> None:
    """Ignore a signal that a terminal or systemd sends to all processes: the pool handles it."""


def _let_sigterm_end_forks() -> None:
    """Let SIGTERM end processes that a job forks: multiprocessing uses it, and then waits until they are dead.

    It is blocked during the fork, as it may come before the child has restored its default action.
    """
    masks = threading.local()

    def block() -> None:
        masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def unblock() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.before)

    def restore() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        unblock()

    os.register_at_fork(before=block, after_in_parent=unblock, after_in_child=restore)


def main() -> None:
    """The entry of a worker process."""
    setup = json.loads(os.environ.pop("SKUNKQUEUE_CHILD"))
    take_pool_url()
    die_with(setup["parent"])
    set_title(setup["title"])
    for name in ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGABRT"):
        signal.signal(getattr(signal, name), _nothing)
    _let_sigterm_end_forks()
    surroundings.install()
    link = Link(Ends(*setup["ends"]))
    try:
        jobs = hooked(setup)
    except BaseException as error:
        say_broken(link, f"cannot call {setup['hook'][0]}: {type(error).__name__}: {error}")
        return
    announcer = Announcer(link.write, setup["queue"])
    worker = make(link, setup, jobs=jobs, imported=announcer.tell)
    link.guard.executing = worker.executing
    signal.signal(signal.SIGURG, worker.on_signal)
    serve(link, worker, setup, announcer.tell)


def serve(link: Link, worker: Any, setup: Mapping[str, Any], imported: Callable[[], None] = lambda: None) -> None:
    """Import the modules and report READY or BROKEN; then work until there are no more tickets."""
    wrong = import_all(setup["imports"])
    if wrong is not None:
        say_broken(link, wrong)
        return
    surroundings.note_usual()
    imported()
    link.write(frames.plain(frames.READY, 0))
    worker.serve()


def hooked(setup: Mapping[str, Any]) -> Mapping[str, Carried] | None:
    """The jobs that this process knows by name, if the pool's source has a hook. Raises what the hook raises."""
    if not setup.get("hook"):
        return None
    with while_importing():
        return Hook.unpack(setup["hook"]).jobs()


def say_broken(link: Link, why: str) -> None:
    """Report that no worker of the pool can start."""
    link.write(frames.plain(frames.BROKEN, 0, why.encode("utf-8", "replace")))


def make(
    link: Link,
    setup: Mapping[str, Any],
    *,
    jobs: Mapping[str, Carried] | None = None,
    thread: bool = False,
    imported: Callable[[], None] = lambda: None,
) -> Any:
    """Make the kind of worker that ``setup`` asks for. ``imported`` is called when it has imported a job."""
    resolver = Resolver(jobs, setup["queue"])
    executor = Executor(link.write, resolver, max_result=setup["max_result"], imported=imported)
    if setup["concurrency"] > 1:
        from skunkqueue.worker.child.concurrent import Concurrent

        return Concurrent(link, executor, setup["concurrency"])
    return (SerialThread if thread else Serial)(link, executor)
