"""A bridge: Gearman clients in any language call the jobs of a queue; each call is fired, its result is the answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, TextIO

from skunkqueue.clock import Clock
from skunkqueue.envelope import Record, Seal, State
from skunkqueue.errors import JobFailed, SkunkError, WrongCall
from skunkqueue.gearman.base_worker import HOSTS, client_id_of
from skunkqueue.gearman.connection import Hosts
from skunkqueue.gearman.encoders import JSONDataEncoder
from skunkqueue.gearman.protocol import check_function
from skunkqueue.gearman.runner import packer, value_of
from skunkqueue.gearman.source import GearmanSource
from skunkqueue.job import Carried, Job
from skunkqueue.queue import SkunkQueue
from skunkqueue.run import CurrentRun, Run, current_run
from skunkqueue.worker import WARNING, Log, Pool, Settings, ShownResult, pool_name, shown

ROUTE: Final = "bridge"
LOOK: Final = 0.5
"""Seconds between two looks at the progress of runs that are called."""


class Bridge:
    """Registers jobs at ``servers``, each by its name, and by its short name where no two have the same.

    What clients send is a JSON object of arguments by keyword, or an array of arguments by position; the answer is
    JSON, and what a job reports of its progress is its status. ``concurrency`` calls are under way at a time. A call
    whose bridge dies is given to another one by its server, and waits there for the run that was fired, if that is
    still open. Raises WrongCall.
    """

    def __init__(
        self,
        jobs: Sequence[Job[Any, Any]],
        servers: Hosts = HOSTS,
        *,
        route: str | None = None,
        concurrency: int = 100,
        log: TextIO | None = None,
        log_format: str = "text",
        verbose: bool = False,
    ) -> None:
        self.functions: dict[str, Job[Any, Any]] = by_name(jobs)
        self._followed = FollowedRuns()
        self._log = Log(log, verbose=verbose, format=log_format)
        names = list(self.functions)
        self._source = GearmanSource(
            servers, {ROUTE: names}, packer(names, Seal()), value_of, client_id=client_id_of("bridge"), say=self._say
        )
        settings = Settings(
            name=pool_name(),
            queue=ROUTE,
            routes=(ROUTE,),
            concurrency=concurrency,
            in_process=True,
            max_payload=1 << 30,
            jobs={name: Carried(_call(job, route, self._followed), name) for name, job in self.functions.items()},
        )
        self._pool = Pool(self._source, Clock(self._source.offset), settings, self._log)

    def run(self) -> None:
        """Serve until a signal or ``stop``. A gentle stop waits for the calls that are under way."""
        try:
            with self._followed:
                self._pool.listen()
        finally:
            self._source.close()

    def stop(self) -> None:
        """Stop gently. Returns at once; from any thread."""
        self._pool.shutdown()

    def _say(self, text: str) -> None:
        self._log.say(text, what="server", level=WARNING)
        self._log.flush()


def by_name(jobs: Sequence[Job[Any, Any]]) -> dict[str, Job[Any, Any]]:
    """The jobs by the names of their functions at a server. Raises WrongCall."""
    if not jobs:
        raise WrongCall("a bridge needs jobs to register; got none")
    found = {check_function(job.name): job for job in jobs}
    if len(found) < len(jobs):
        raise WrongCall(f"two of these jobs have the same name: {', '.join(job.name for job in jobs)}")
    short = [job.name.rpartition(":")[2] for job in jobs]
    more = {name: job for name, job in zip(short, jobs, strict=True) if short.count(name) == 1}
    return {**more, **found}


class FollowedRuns:
    """The runs that calls wait for: what they report of their progress is told to whoever calls.

    As a context manager it looks at all of them, every LOOK seconds, on a thread of its own.
    """

    def __init__(self) -> None:
        self._calls: dict[str, _FollowedRun] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="skunkqueue-bridge-progress", daemon=True)

    def __enter__(self) -> FollowedRuns:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join(LOOK)  # longer only where the store hangs

    @contextmanager
    def follow(self, run: Run[Any], queue: SkunkQueue) -> Iterator[None]:
        """Within a call: tell its client of this run."""
        call = current_run()
        self._calls[call.id] = _FollowedRun(run.id, queue, call)
        try:
            yield
        finally:
            del self._calls[call.id]

    def _serve(self) -> None:
        while not self._closed.wait(LOOK):
            by_queue: dict[SkunkQueue, list[_FollowedRun]] = {}
            for each in list(self._calls.values()):
                by_queue.setdefault(each.queue, []).append(each)
            for queue, followed in by_queue.items():
                with suppress(SkunkError):  # the call itself waits for a store that is away
                    records = queue.store.get([each.id for each in followed])
                    for each in followed:
                        each.tell(records.get(each.id))


@dataclass
class _FollowedRun:
    id: str
    queue: SkunkQueue
    call: CurrentRun
    told: tuple[float, str] | None = None

    def tell(self, record: Record | None) -> None:
        if record is None or record.state != State.RUNNING or record.progress is None:
            return
        found = record.progress, record.note or ""
        if found != self.told:
            self.told = found
            self.call.progress(*found)


def _call(job: Job[Any, Any], route: str | None, followed: FollowedRuns) -> Callable[..., Any]:
    async def call(handle: bytes, unique: bytes, data: bytes) -> ShownResult:
        args, kwargs = _arguments(job, JSONDataEncoder.decode(data))
        changes: dict[str, Any] = {} if route is None else {"routes": route}
        run = await job.options(unique=_key(unique, data), **changes).afire(*args, **kwargs)
        try:
            with followed.follow(run, job.queue):
                value = await run
        except JobFailed as error:
            raise type(error.type or "JobFailed", (Exception,), {})(error.message) from None
        return ShownResult(JSONDataEncoder.encode(value), shown(value))

    return call


def _key(unique: bytes, data: bytes) -> str:
    """What the same call has when its server gives it to another bridge, which so finds the run that was fired for it.

    A handle alone will not do: a server that was restarted counts from 1 again.
    """
    call = b"\0".join((current_run().id.encode(), unique, data))
    return f"gearman {sha256(call).hexdigest()[:32]}"


def _arguments(job: Job[Any, Any], sent: Any) -> tuple[Sequence[Any], Mapping[str, Any]]:
    if sent is None:
        return (), {}
    if isinstance(sent, list):
        return sent, {}
    if isinstance(sent, dict):
        return (), sent
    raise TypeError(f"{job.name} takes a JSON object of arguments by keyword, or an array; got {type(sent).__name__}")
