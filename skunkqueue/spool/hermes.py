"""Hermes, the public class that processes the jobs of a spool folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self, TextIO

from skunkqueue.clock import Clock
from skunkqueue.codec import default_keys, encode_call, pickle_function
from skunkqueue.durations import Duration, seconds
from skunkqueue.envelope import Seal, pack_body, pack_head
from skunkqueue.errors import WrongCall
from skunkqueue.job import Carried
from skunkqueue.run import current_run
from skunkqueue.signing import seal_body
from skunkqueue.spool.background import Background
from skunkqueue.spool.contents import Content
from skunkqueue.spool.files import Unreadable
from skunkqueue.spool.inbox import MOST_SIZE
from skunkqueue.spool.processors import Processors
from skunkqueue.spool.reading import UNREAD, Board, Roster
from skunkqueue.spool.source import SpoolSource
from skunkqueue.worker import Hook, Log, LogEntry, Pool, Settings, pool_name

ROUTE: Final = "spool"
HOOK: Final = "skunkqueue.spool.reading:jobs"
_LAST: Final = frozenset({"finished", "failed", "retries", "handed back"})
"""The last log entries of a run, until it is claimed again."""


class Hermes:
    """Processes the jobs that are dropped as files into ``path``/in; those that fail are kept in ``path``/err.

    ``threads`` of this process work, or with ``workers`` so many processes, which a job can neither crash nor block
    for others. ``timeout`` (seconds, a timedelta or a text like "5m") and ``retries`` hold for every job; a file
    above ``max_size`` bytes is not read. ``lease`` is how long a file stays claimed by a dead process. ``log`` is a
    text stream; by default stderr, or the logger ``skunkqueue.worker`` where logging has been set up; with
    ``log_format="json"`` it is a JSON document a line. ``options`` are those of SpoolSource.

    Raises WrongCall for options that cannot be right, and where ``path`` cannot be a spool folder.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        threads: int = 4,
        workers: int = 0,
        timeout: Duration | None = None,
        retries: int = 0,
        max_size: int = MOST_SIZE,
        *,
        lease: Duration = 15,
        log: TextIO | None = None,
        log_format: str = "text",
        verbose: bool = False,
        **options: Any,
    ) -> None:
        self.path: str = os.path.abspath(os.fspath(path))
        self._seal = Seal(
            retries=_whole(retries, "retries", 0), timeout=None if timeout is None else seconds(timeout, "timeout")
        )
        self._in_process = not _whole(workers, "workers", 0)
        self._keys = None if self._in_process else default_keys()
        self._log = Log(log, verbose=verbose, format=log_format, rewrite=self._by_file)
        self._heads: dict[str, tuple[bytes, bytes]] = {}  # by type: the head of a body, and the processor's code
        self._bodies: dict[str, bytes] = {}
        self._board = None if self._keys is None else Board(self._keys)
        self._version = 1  # of the processors
        self._written = 0  # the version that is on the board
        self._unread = b""  # a body without its call
        size = _whole(max_size, "max_size", 1)
        quick = None if self._in_process else self._pack_unread
        self._source = SpoolSource(
            self.path, self._pack, make_unread=quick, max_size=size, say=self._log.say, **options
        )
        self.processors: Processors = Processors(self._source.data_of)
        settings = self._settings(workers or _whole(threads, "threads", 1), seconds(lease, "lease"))
        self._pool = Pool(self._source, Clock(self._source.offset), settings, self._log)
        self._background = Background(self._pool, self._source.close)
        self._log.close()

    def _settings(self, workers: int, lease: float) -> Settings:
        return Settings(
            name=pool_name(),
            queue=ROUTE,
            routes=(ROUTE,) * workers,
            lease=lease,
            in_process=self._in_process,
            jobs=self.processors,
            hook=None if self._board is None else Hook(HOOK, fds=(self._board.fd,)),
        )

    # people's verbs

    def register(self, processors: Mapping[str, Callable[..., Any]]) -> None:
        """Have jobs of a type processed by a function of their data, or by a class whose ``run(data)`` does it.

        A class is made anew for each job. Registering a type again replaces its processor. Raises WrongCall.
        """
        if not isinstance(processors, Mapping):
            raise WrongCall(f"register is given a dictionary of processors by type, got {processors!r}")
        for type, target in processors.items():
            old = self.processors.register(type, target)
            self._heads.pop(type, None)
            self._version += 1
            if old is not None:
                self._log.say(f"{type} is now processed by {_name(target)}, no longer by {_name(old)}")
        self._log.flush()

    def start(self, daemon: bool = False) -> None:
        """Process jobs, in the foreground, until Ctrl-C, a signal or ``stop``; a line is logged for each.

        With ``daemon`` it returns at once and works in the background, also after the script's last line, until a
        signal or ``stop``.
        """
        if daemon:
            self._pool.start()
            self._background.start()
            return
        try:
            self._pool.listen()
        finally:
            self._source.close()

    def run_until_idle(self) -> None:
        """Process the files that are there, and retries that become due while there is work; then return."""
        self._source.look_anew()  # what is there now counts, though no event may have told of it yet
        try:
            self._pool.run_until_idle()
        finally:
            self._source.close()

    def stop(self) -> None:
        """Stop: the jobs that run may finish. Waits for them, unless called by one of them."""
        self._pool.shutdown()
        if not _is_within_job():
            self._background.wait()
            self._pool.raise_failure()

    @property
    def running(self) -> bool:
        return self._pool.running

    def __enter__(self) -> Self:
        self._pool.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or issubclass(kind, Exception):
            self.stop()
        else:
            self._pool.die()
            self._background.wait()
        self._pool.forget_stop()

    # the log

    def _by_file(self, entry: LogEntry) -> LogEntry | None:
        """Name runs by their file, ``in/NAME``; leave out that a file was taken, and files that were not processed."""
        what, worker, run, job, took, text, subject, error, traceback, level = entry
        if not subject:
            return entry
        names, types = self._source.names, self._source.types
        name = names.pop(run, None) if what in _LAST else names.get(run)
        type = types.pop(run, None) if what in _LAST else None
        if type == "" or (what == "took" and not self._log.verbose):
            return None
        if name is None:
            return entry
        subject = f"in/{name} ({run})" if self._log.verbose else f"in/{name}"
        return LogEntry(what, worker, run, type or job, took, text, subject, error, traceback, level)

    # bodies for workers

    def _pack(self, content: Content, id: str) -> bytes:
        """The body of a run. Raises Unreadable for a type without a processor."""
        if self._keys is None:  # a worker in this process looks the data up
            return self._bodies.get(content.type) or self._remember(content.type)
        head, code = self._heads.get(content.type) or self._head(content.type)
        call = encode_call((content.data,), {})
        return seal_body(head, code, call, id=id, queue=ROUTE, keys=self._keys)

    def _pack_unread(self, file: str, size: int, quiet: bool) -> bytes:
        """The body of a run whose worker reads the file and looks up the processor."""
        if self._written != self._version:
            self._write_roster()
        name = file if file.isascii() else os.fsencode(file)
        return self._unread + encode_call((name, size, quiet, self._written), {})

    def _write_roster(self) -> None:
        version = self._version  # if another thread registers meanwhile, it is written once more
        assert self._board is not None
        work = os.fsencode(self._source.work)
        self._board.write(Roster(version, work, self._source.can_lease, self.processors.codes()))
        self._unread = pack_body(pack_head(UNREAD, "", self._seal), b"", b"")
        self._written = version

    def _remember(self, type: str) -> bytes:
        self._bodies[type] = body = pack_body(self._head(type)[0], b"", encode_call((), {}))
        return body

    def _head(self, type: str) -> tuple[bytes, bytes]:
        processor = self.processors.processor(type)
        if processor is None:
            raise Unreadable(f"there is no processor for {type!r}; there are {_listed(self.processors)}")
        code = b"" if self._in_process else pickle_function(Carried(processor, type))
        found = self._heads[type] = pack_head(type, "", self._seal), code
        return found


def _is_within_job() -> bool:
    try:
        current_run()
    except WrongCall:
        return False
    return True


def _name(target: Any) -> str:
    return str(getattr(target, "__qualname__", None) or repr(target))


def _listed(processors: Mapping[str, Any]) -> str:
    return ", ".join(sorted(processors)) or "none at all"


def _whole(value: int, what: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise WrongCall(f"{what} is a whole number of {least} or more, got {value!r}")
    return value
