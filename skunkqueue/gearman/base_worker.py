"""BaseWorker, to be subclassed: each of its task_xxx methods is a function that Gearman clients call."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

from skunkqueue.durations import span
from skunkqueue.errors import WrongCall
from skunkqueue.gearman.connection import Hosts
from skunkqueue.gearman.job import GearmanJob
from skunkqueue.gearman.protocol import check_function
from skunkqueue.gearman.tasks import help_about, tasks_of
from skunkqueue.gearman.worker import Callback, GearmanWorker, JsonWorker
from skunkqueue.signals import ROUGH_SIGNALS, catch, give_back

HOSTS = ("localhost:4730",)


class BaseWorker:
    """Each ``task_xxx`` method is exported as ``<name>_xxx``; ``<name>_help`` describes them.

    Clients send the arguments by keyword. ``work_class`` is the GearmanWorker whose data encoder reads them and writes
    the value; by default both are JSON. ``gearman_worker`` is one that is there already, to which the tasks are added.
    With ``verbosity`` 1 each task is printed as it begins, with 2 also its arguments and how long it took.

    Raises WrongCall without a ``name``, or where a name is one that no server takes.
    """

    name: str = ""
    work_class: type[GearmanWorker] = JsonWorker

    def __init__(
        self,
        verbosity: int = 0,
        hosts: Hosts = HOSTS,
        gearman_worker: GearmanWorker | None = None,
    ) -> None:
        self.verbosity = verbosity
        self.hosts = hosts
        self.client_id: str = client_id_of(self.checked_name())
        self._given = gearman_worker is not None
        self.gearman_worker: GearmanWorker = self.work_class(hosts) if gearman_worker is None else gearman_worker
        if not self._given:
            self.gearman_worker.set_client_id(self.client_id)
        self.tasks: Mapping[str, Callable[..., Any]] = tasks_of(self, self.name)
        self._help = help_about(self.tasks)
        self._job = threading.local()
        self.setUp()
        for task, function in self.exported().items():
            self.gearman_worker.register_task(task, self._callback(function))

    @classmethod
    def checked_name(cls) -> str:
        """Its name. Raises WrongCall."""
        if not cls.name:
            raise WrongCall(f'{cls.__name__} needs a name, like name = "myworker": its tasks are called by it')
        return check_function(cls.name)

    # to be overridden

    def setUp(self) -> None:
        """Called once in the process that works, before the first task. To be overridden."""

    # people's verbs

    def start(self) -> None:
        """Work in this process until ``stop`` or a signal.

        SIGTERM, SIGHUP, SIGQUIT and SIGABRT let the current task finish. SIGINT (Ctrl-C) raises KeyboardInterrupt in
        it, and its job is given to another worker. On other threads than the main one signals are left alone.
        """
        if self.verbosity > 0:
            _say(f"Starting worker {self.client_id}..")
        caught = self._catch_signals()
        try:
            self.gearman_worker.work()
        finally:
            give_back(caught)

    def stop(self) -> None:
        """Stop after the current task. Returns at once; from any thread, also from a task."""
        self.gearman_worker.shutdown()

    # for tasks

    def send_status(self, numerator: int, denominator: int) -> None:
        """Within a task: tell the client how far it is."""
        job = self._current()
        self.gearman_worker.send_job_status(job, numerator, denominator)

    def send_data(self, data: Any) -> None:
        """Within a task: send the client a part of the result."""
        job = self._current()
        self.gearman_worker.send_job_data(job, data)

    # internals

    def exported(self) -> dict[str, Callable[..., Any]]:
        """All functions that clients can call, by name."""
        return {**self.tasks, f"{self.name}_help": self._describe}

    def _describe(self) -> dict[str, Any]:
        """What this worker exports."""
        return self._help

    def _callback(self, function: Callable[..., Any]) -> Callback:
        def call(worker: GearmanWorker, job: GearmanJob) -> Any:
            self._job.current = job
            try:
                return function(**arguments(job.task, job.data))
            finally:
                self._job.current = None

        return call if self.verbosity < 1 else _told(call, self.verbosity)

    def _current(self) -> GearmanJob:
        job: GearmanJob | None = getattr(self._job, "current", None)
        if job is None:
            raise WrongCall("send_status and send_data are for tasks, on the thread of the task itself")
        return job

    def _catch_signals(self) -> dict[int, Any]:
        if threading.current_thread() is not threading.main_thread():
            return {}
        caught = catch(self._on_signal)
        rough = [number for number in caught if signal.Signals(number).name in ROUGH_SIGNALS]
        give_back({number: caught.pop(number) for number in rough})  # Python raises KeyboardInterrupt for it
        return caught

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.stop()


def arguments(task: str, data: Any) -> dict[str, Any]:
    """The arguments that a client sent; no data at all are no arguments. Raises TypeError for anything else."""
    if data is None or data == b"":
        return {}
    if not isinstance(data, Mapping) or not all(isinstance(name, str) for name in data):
        raise TypeError(f"{task} takes arguments by keyword, as a JSON object; got {type(data).__name__}")
    return dict(data)


def client_id_of(name: str) -> str:
    """``name-pid@host``, as servers list a worker."""
    return f"{name}-{os.getpid()}@{re.sub(r'[^!-~]', '-', socket.gethostname())}"


def _told(call: Callback, verbosity: int) -> Callback:
    """The same, with a line before and after."""

    def told(worker: GearmanWorker, job: GearmanJob) -> Any:
        from time import perf_counter

        _say(f" Processing task {job.task}" + (f"\n  Arguments: {job.data}" if verbosity > 1 else ""))
        began = perf_counter()
        try:
            return call(worker, job)
        finally:
            if verbosity > 1:
                _say(f"  Task took {span(perf_counter() - began)}")

    return told


def _say(text: str) -> None:
    print(text, file=sys.stdout, flush=True)  # noqa: T201 - verbosity asks for it
