"""WorkRunner: runs BaseWorkers in processes of their own, which are replaced when they stop."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NamedTuple, TextIO

from skunkqueue.clock import Clock
from skunkqueue.codec import decode_value, encode_call
from skunkqueue.durations import Duration, seconds
from skunkqueue.envelope import Seal, pack_body, pack_head
from skunkqueue.errors import WrongCall
from skunkqueue.gearman.base_worker import HOSTS, BaseWorker, client_id_of
from skunkqueue.gearman.child import hook_for
from skunkqueue.gearman.connection import Hosts, parse_hosts
from skunkqueue.gearman.parts import PartsReader
from skunkqueue.gearman.protocol import check_function
from skunkqueue.gearman.source import GearmanSource
from skunkqueue.gearman.tasks import PREFIX
from skunkqueue.gearman.worker_connection import Assigned
from skunkqueue.signals import catch, give_back
from skunkqueue.worker import WARNING, Log, Pool, Settings, pool_name

ROUTE = "gearman"
JOIN_SLICE = 0.5


class WorkRunner:
    """Runs workers in processes, grouped by their ``work_class``; a process serves all workers of its group.

    ``hosts`` are the servers, ``verbosity`` that of the workers. ``timeout`` ends a task that takes longer (seconds or
    a timedelta), ``retries`` is how often a task that fails is tried again before its client hears of it. A stop is
    gentle: what runs may finish, for ``grace`` at the longest. ``log`` is a text stream; by default stderr, or the
    logger ``skunkqueue.worker`` where logging has been set up.

    A task that kills its process does no harm to others; after three processes it fails. Raises WrongCall.
    """

    def __init__(
        self,
        workers: Sequence[type[BaseWorker]] = (),
        hosts: Hosts = HOSTS,
        verbosity: int = 0,
        *,
        timeout: Duration | None = None,
        retries: int = 0,
        grace: Duration | None = None,
        log: TextIO | None = None,
        log_format: str = "text",
        verbose: bool = False,
    ) -> None:
        self.hosts: list[str] = [str(server) for server in parse_hosts(hosts)]
        self.verbosity = verbosity
        self.groups: list[list[type[BaseWorker]]] = grouped([_checked(worker) for worker in workers])
        if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
            raise WrongCall(f"retries is a whole number of 0 or more, got {retries!r}")
        self._seal = Seal(retries=retries, timeout=None if timeout is None else seconds(timeout, "timeout"))
        self._grace = None if grace is None else seconds(grace, "grace")
        self._log = Log(log, verbose=verbose, format=log_format)
        self._pools: list[_Running] = []
        self._stopping = False

    def start(self, threads: int = 1, keepAlive: bool = True) -> None:  # noqa: N803 - the name in use
        """Start ``threads`` processes for each group, and work until a signal or ``stop``.

        With ``keepAlive`` a process that stops, for whatever reason, is replaced; without, this returns when all have
        stopped. Signals: SIGTERM, SIGHUP, SIGQUIT and SIGABRT let the tasks that run finish; SIGINT interrupts them,
        and their jobs are given to other workers. A second signal interrupts, a third kills. Raises SkunkError.
        """
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
            raise WrongCall(f"threads is a whole number of 1 or more, got {threads!r}")
        if not self.groups:
            raise WrongCall("a WorkRunner is given a list of BaseWorker subclasses; got none")
        if self._pools:
            raise WrongCall("this WorkRunner works already")
        caught = catch(self._on_signal) if threading.current_thread() is threading.main_thread() else {}
        try:
            for group in self.groups:
                self._pools.append(self._pool(group, threads, keepAlive))
            for each in self._pools:
                if not self._stopping:
                    each.pool.start()
            self._join()
        finally:
            give_back(caught)
            self._close()

    def stop(self) -> None:
        """Stop gently: the tasks that run may finish. Returns at once; from any thread."""
        self._stopping = True
        for each in list(self._pools):
            each.pool.shutdown()

    # internals

    def _pool(self, group: Sequence[type[BaseWorker]], threads: int, keep_alive: bool) -> _Running:
        names = [name for worker in group for name in exported(worker)]
        source = GearmanSource(
            self.hosts,
            {ROUTE: names},
            packer(names, self._seal),
            value_of,
            client_id=client_id_of("+".join(worker.name for worker in group)),
            say=self._say,
        )
        parts = PartsReader(source.servers)
        hook = hook_for(group, self.hosts, self.verbosity, parts.sender.fileno())
        settings = Settings(
            name=pool_name(),
            queue=ROUTE,
            routes=(ROUTE,) * threads,
            grace=self._grace,
            max_payload=1 << 30,  # the servers have limits of their own
            hook=hook,
            restart=bool(keep_alive),
        )
        return _Running(Pool(source, Clock(source.offset), settings, self._log), source, parts, hook.fds[0])

    def _join(self) -> None:
        for each in self._pools:
            each.pool.join()
        for each in self._pools:
            each.pool.raise_failure()

    def _close(self) -> None:
        for each in self._pools:
            each.pool.die()
            each.pool.join()
            each.parts.close()
            each.source.close()
            os.close(each.carried)
        self._pools = []
        self._stopping = False

    def _say(self, text: str) -> None:
        self._log.say(text, what="server", level=WARNING)
        self._log.flush()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True
        for each in list(self._pools):
            each.pool.on_signal(number, frame)


class _Running(NamedTuple):
    """A pool, and what was made for it; ``carried`` is the descriptor of its hook that is to be closed."""

    pool: Pool
    source: GearmanSource
    parts: PartsReader
    carried: int


def grouped(workers: Sequence[type[BaseWorker]]) -> list[list[type[BaseWorker]]]:
    """The workers by their ``work_class``, in order. Raises WrongCall where two of a group export one name."""
    groups: dict[type, list[type[BaseWorker]]] = {}
    for worker in workers:
        groups.setdefault(worker.work_class, []).append(worker)
    names: dict[str, type[BaseWorker]] = {}
    for worker in workers:
        for name in exported(worker):
            other = names.setdefault(name, worker)
            if other is not worker:
                raise WrongCall(f"{other.__name__} and {worker.__name__} both export {name}: give one another name")
    return list(groups.values())


def exported(worker: type[BaseWorker]) -> list[str]:
    """The functions that a worker will export, without making it."""
    name = worker.checked_name()
    tasks = [attribute.removeprefix(PREFIX) for attribute in dir(worker) if attribute.startswith(PREFIX)]
    return [check_function(f"{name}_{task}") for task in [*tasks, "help"]]


def _checked(worker: Any) -> type[BaseWorker]:
    if not isinstance(worker, type) or not issubclass(worker, BaseWorker):
        raise WrongCall(f"a WorkRunner runs BaseWorker subclasses, which it makes itself; got {worker!r}")
    worker.checked_name()
    return worker


def packer(names: Sequence[str], seal: Seal) -> Callable[[Assigned, str], bytes | None]:
    """Makes the bodies of runs: the job is the task of the function's name, called with handle, unique key and data."""
    heads = {name.encode(): pack_body(pack_head(name, "", seal), b"", b"") for name in names}

    def pack(job: Assigned, id: str) -> bytes | None:
        head = heads.get(job.function)
        return None if head is None else head + encode_call((job.handle, job.unique, job.data), {})

    return pack


def value_of(value: bytes | None) -> bytes:
    """What the client gets: a task gives bytes."""
    found = b"" if value is None else decode_value(value)
    return found if isinstance(found, bytes) else str(found).encode()
