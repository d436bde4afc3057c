"""The admin commands: text in, text out, in gearmand's own words."""

from __future__ import annotations

import importlib.metadata
import os
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final

from skunkqueue.envelope import Record, State
from skunkqueue.errors import StoreError
from skunkqueue.gearman.protocol import Line, PacketType
from skunkqueue.gearman.server.names import function_of, handle_of, id_of, unique_of
from skunkqueue.gearman.server.peer import Peer
from skunkqueue.gearman.server.service import Limits, Service
from skunkqueue.gearman.text import FunctionPriorities, FunctionStatus, JobInfo, TableRow, WorkerInfo, ok, refuse, table
from skunkqueue.notes import decode_notes
from skunkqueue.persistence import Persister
from skunkqueue.routes import HIGH, LOW, base_route

MOST_SHOWN: Final = 20_000
"""Jobs that ``show jobs`` lists."""
MOST_NONSENSE: Final = 10
"""Unknown commands of a peer, before its connection ends."""
OPEN: Final = frozenset({str(State.RUNNING), str(State.QUEUED)})
NORMAL: Final = "normal"
Counts = dict[tuple[str, str, str], int]


class AdminCommands:
    """Answers lines of text. ``shut`` is told to end the server: at once, or gracefully."""

    def __init__(self, service: Service, shut: Callable[[bool], None]) -> None:
        self._service = service
        self._shut = shut
        self._commands: dict[str, Callable[[Peer, list[str]], None]] = {
            "status": self._status,
            "prioritystatus": self._priorities,
            "workers": self._workers,
            "version": lambda peer, args: _say(peer, ok(_version())),
            "getpid": lambda peer, args: _say(peer, ok(str(os.getpid()))),
            "verbose": lambda peer, args: _say(peer, ok("INFO" if service.log.verbose else "NOTICE")),
            "maxqueue": self._maxqueue,
            "create": self._create,
            "drop": self._drop,
            "show": self._show,
            "cancel": self._cancel,
            "shutdown": self._shutdown,
        }

    def run(self, peer: Peer, line: Line) -> None:
        """Answer one command."""
        words = line.text.split()
        command = self._commands.get(words[0].lower()) if words else None
        if command is None:
            _unknown(peer, words)
            peer.nonsense += 1
            peer.is_ending = peer.nonsense > MOST_NONSENSE or not line.text.isprintable()
        else:
            command(peer, words)

    # tables

    def _status(self, peer: Peer, words: list[str]) -> None:
        def rows(counts: Counts) -> Iterable[TableRow]:
            able = self._service.able
            for function, jobs in self._jobs(counts).items():
                running = jobs[State.RUNNING]
                yield FunctionStatus(_text(function), jobs[State.QUEUED] + running, running, able[function])

        self._tell_counts(peer, rows)

    def _priorities(self, peer: Peer, words: list[str]) -> None:
        def rows(counts: Counts) -> Iterable[TableRow]:
            able = self._service.able
            for function, jobs in self._jobs(counts).items():
                yield FunctionPriorities(_text(function), jobs[HIGH], jobs[NORMAL], jobs[LOW], able[function])

        self._tell_counts(peer, rows)

    def _tell_counts(self, peer: Peer, rows: Callable[[Counts], Iterable[TableRow]]) -> None:
        def told(counts: Any) -> bytes:
            return table(rows(counts))

        self._ask(peer, lambda store, now: store.count(), told)

    def _jobs(self, counts: Counts) -> dict[bytes, Counter[str]]:
        """Open jobs by function: how many by state, and of those that wait, by priority.

        The functions are those that were met here, that workers can do, or that have open jobs on the queue.
        """
        found: dict[bytes, Counter[str]] = {name: Counter() for name in self._service.functions}
        found.update((name, Counter()) for name in self._service.able if name not in found)
        for (queue, route, state), count in counts.items():
            if queue == self._service.queue.name and state in OPEN and not route.startswith("@"):
                jobs = found.setdefault(function_of(route), Counter())
                jobs[state] += count
                if state == State.QUEUED:
                    jobs[route.removeprefix(base_route(route)) or NORMAL] += count
        return found

    def _workers(self, peer: Peer, words: list[str]) -> None:
        rows = [
            WorkerInfo(each.fd, each.address, each.client_id, tuple(map(_text, each.abilities)))
            for each in self._service.loop.peers.values()
        ]
        peer.send(table(rows))

    def _show(self, peer: Peer, words: list[str]) -> None:
        what = [word.lower() for word in words[1:]]
        if what == ["jobs"]:
            self._ask(peer, lambda store, now: self._open(store, now), lambda found: table(map(_job_info, found)))
        elif what == ["unique", "jobs"]:
            self._ask(peer, lambda store, now: self._open(store, now), _uniques)
        elif what:
            _refuse(peer, refuse("UNKNOWN_SHOW_ARGUMENTS"))
        else:
            _unknown(peer, words)

    def _open(self, store: Persister, now: float) -> list[Record]:
        """On the store's thread: the open runs of the queue."""
        return list({record.id: record for record in self._service.open_runs(store, now, MOST_SHOWN)}.values())

    def _ask(self, peer: Peer, ask: Callable[[Persister, float], Any], told: Callable[[Any], bytes]) -> None:
        answer = peer.expect()

        def done(found: Any) -> None:
            answer.give(_away(found) if isinstance(found, StoreError) else told(found))

        self._service.calls.ask(ask, done, whose=peer)

    # changes

    def _maxqueue(self, peer: Peer, words: list[str]) -> None:
        if len(words) < 2:
            _incomplete(peer, words)
            return
        function = words[1].encode("utf-8", "surrogateescape")
        numbers = [max(0, _number(word)) for word in words[2:5]]
        if len(numbers) <= 1:
            numbers = (numbers or [0]) * 3
        high, normal, low = (*numbers, 0, 0)[:3]
        limits: Limits | None = (high, normal, low) if any(numbers) else None
        if function in self._service.functions:  # as gearmand: what was not met yet is left alone
            self._service.functions[function] = limits
        _refuse(peer, ok())

    def _create(self, peer: Peer, words: list[str]) -> None:
        if len(words) != 3 or words[1].lower() != "function":
            _incomplete(peer, words)
            return
        self._service.know(words[2].encode("utf-8", "surrogateescape"))
        _refuse(peer, ok())

    def _drop(self, peer: Peer, words: list[str]) -> None:
        if len(words) != 3 or words[1].lower() != "function":
            _incomplete(peer, words)
            return
        function = words[2].encode("utf-8", "surrogateescape")
        if function not in self._service.functions:
            _refuse(peer, Line("ERR function not found"))
        elif self._service.able[function] or any(job.peer and job.function == function for job in self._service.jobs):
            _refuse(peer, Line("ERR there are still connected workers or executing clients"))
        else:
            del self._service.functions[function]
            _refuse(peer, ok())

    def _cancel(self, peer: Peer, words: list[str]) -> None:
        if len(words) != 3 or words[1].lower() != "job":
            _unknown(peer, words)
            return
        id = id_of(words[2].encode("utf-8", "surrogateescape"))
        if id is None:
            _refuse(peer, refuse("UNKNOWN_JOB"))
            return
        cancelled = id
        answer = peer.expect()

        def done(found: Any) -> None:
            if isinstance(found, StoreError):
                answer.give(_away(found))
                return
            answer.give(_crlf(ok() if found else refuse("UNKNOWN_JOB")))
            job = self._service.jobs.get(cancelled)
            if found and job is not None:
                if job.peer is not None:
                    job.release()
                job.tell(PacketType.WORK_FAIL)
                self._service.jobs.end(job)

        # It is done also where the peer leaves at once, as those do that read no answer.
        self._service.calls.ask(lambda store, now: self._cancelled(store, now, cancelled), done, whose=self)

    def _cancelled(self, store: Persister, now: float, id: str) -> bool:
        """On the store's thread: cancel it, and tell the worker of the queue that runs it."""
        record = store.get([id]).get(id)
        if record is None or record.envelope.queue != self._service.queue.name:
            return False
        done = store.cancel([id], now=now)
        for each in done:
            if each.worker is not None and each.worker != self._service.name:
                store.tell(each.worker, f"cancel {id}")
        return bool(done)

    def _shutdown(self, peer: Peer, words: list[str]) -> None:
        how = words[1].lower() if len(words) > 1 else ""
        if how not in ("", "graceful") or len(words) > 2:
            _incomplete(peer, words)
            return
        _say(peer, ok())
        self._shut(how == "graceful")


def _version() -> str:
    """That of SkunkQueue."""
    try:
        return importlib.metadata.version("skunkqueue")
    except importlib.metadata.PackageNotFoundError:  # it was copied here, not installed
        return "0"


def _text(function: bytes) -> str:
    return function.decode("utf-8", "surrogateescape")


def _number(word: str) -> int:
    """As C reads one: what is none is 0."""
    digits = word.removeprefix("-")
    return int(word) if digits.isascii() and digits.isdigit() and len(digits) < 10 else 0


def _job_info(record: Record) -> JobInfo:
    is_queued = record.state == State.QUEUED
    return JobInfo(_text(handle_of(record.id)), decode_notes(record.notes).starts, 0, int(is_queued))


def _uniques(records: Iterable[Record]) -> bytes:
    lines = [unique_of(record.envelope.unique) + b"\n" for record in records]
    return b"".join(lines) + b".\n"


def _say(peer: Peer, line: Line) -> None:
    peer.send(line.encode())


def _refuse(peer: Peer, line: Line) -> None:
    """gearmand ends these with a carriage return as well."""
    peer.send(_crlf(line))


def _crlf(line: Line) -> bytes:
    return line.encode()[:-1] + b"\r\n"


def _away(error: StoreError) -> bytes:
    return _crlf(refuse("STORE_AWAY", str(error)[:300]))


def _unknown(peer: Peer, words: list[str]) -> None:
    name = words[0][:100] if words else ""
    _refuse(peer, Line(f"ERR UNKNOWN_COMMAND Unknown+server+command{name}"))


def _incomplete(peer: Peer, words: list[str]) -> None:
    text = f"An+incomplete+set+of+arguments+was+sent+to+this+command+{words[0][:100]}"
    _refuse(peer, Line(f"ERR INVALID_ARGUMENTS {text}"))
