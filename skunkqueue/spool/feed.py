"""Feeds a queue from a spool folder: each file is fired as a job that is named by its type."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any, Final, TextIO

from skunkqueue.clock import Clock
from skunkqueue.codec import encode_call
from skunkqueue.durations import seconds
from skunkqueue.envelope import Claim, Envelope, Outcome, Want, pack_head
from skunkqueue.errors import StoreError, StoreRefused, TooLarge
from skunkqueue.ids import new_token
from skunkqueue.options import Options
from skunkqueue.pauses import pause_after
from skunkqueue.persistence import WorkKey
from skunkqueue.persistence.put import put
from skunkqueue.queue import SkunkQueue
from skunkqueue.routes import check_name
from skunkqueue.signals import catch, give_back
from skunkqueue.signing import seal_body
from skunkqueue.spool.contents import Content
from skunkqueue.spool.inbox import MOST_SIZE
from skunkqueue.spool.source import SpoolSource
from skunkqueue.worker import ERROR, WARNING, Log, LogEntry, pool_name

BATCH: Final = 256
"""Files that are put on the queue in one call."""


class Feeder:
    """Fires the jobs that are dropped into ``path``/in on a route of ``queue``; workers there find them by name.

    The run's id is the one in the claimed file's name. After a crash between firing and removing the file, or a lost
    reply of the store, the same id is put again, which has no further effect.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        queue: SkunkQueue,
        route: str = "default",
        *,
        max_size: int = MOST_SIZE,
        lease: float = 15,
        log: TextIO | None = None,
        log_format: str = "text",
        verbose: bool = False,
        **options: Any,
    ) -> None:
        self._queue = queue
        self._route = check_name(route, "route")
        self._lease = seconds(lease, "lease")
        self._log = Log(log, verbose=verbose, format=log_format)
        self._source = SpoolSource(path, self._pack, max_size=max_size, say=self._log.say, **options)
        self._clock = Clock(self._source.offset)
        self._stopping = threading.Event()
        self._name = pool_name()
        self._seal = Options().seal()

    def run(self, *, burst: bool = False) -> None:
        """Feed until a signal or ``stop``; with ``burst`` until there is no file left to take."""
        caught = self._catch_signals()
        self._log.say(f"feeding {self._queue.name}/{self._route} on {self._queue.url} from {self._source.url}")
        self._log.flush()
        try:
            while not self._stopping.is_set():
                if not self._feed() and burst:
                    break
        finally:
            give_back(caught)
            self._source.close()
            self._log.say("feeding stopped")
            self._log.close()

    def stop(self) -> None:
        """Stop after the files that are held."""
        self._stopping.set()
        self._source.wake()

    def _feed(self) -> bool:
        """Take the files that are there, put them on the queue, remove them. Returns whether there were any."""
        now = self._clock.now()
        want = Want(self._queue.name, (self._route,), self._name, new_token(), BATCH)
        try:
            result = self._source.exchange([], [want], now=now, until=now + self._lease)
            if result.claims:
                self._put(result.claims)
            elif not self._stopping.is_set():
                left = (result.next_ripe or now) - self._clock.now()
                self._source.wait([WorkKey(self._queue.name, self._route)], max(0.005, left))
        except StoreError as error:
            self._log.say(f"trying again: {error}", what="folder away", level=WARNING, error=str(error))
            self._stopping.wait(1.0)
            return True
        finally:
            self._log.flush()
        return bool(result.claims)

    def _put(self, claims: Sequence[Claim]) -> None:
        """Put the files on the queue, with retries; when stopped, those not put go back under their ids."""
        failures = 0
        while (refused := self._refused(claims)) is None:
            failures += 1
            if self._stopping.wait(pause_after(failures)):
                # Not as untouched: the store may have accepted them all the same, and the ids must stay.
                self._commit([(claim, Outcome.again()) for claim in claims])
                return
            held = self._source.extend(claims, until=self._clock.now() + self._lease)
            claims = [claim for claim in claims if claim.id in held]
        names = {claim.id: self._source.names.pop(claim.id, "?") for claim in claims}
        self._commit([(claim, _outcome(refused.get(claim.id))) for claim in claims])
        self._log.say_all([self._said(id, name, refused.get(id)) for id, name in names.items()])

    def _refused(self, claims: Sequence[Claim]) -> Mapping[str, str] | None:
        """Put these; gives what the store does not take, by id and with the reason; None where it takes nothing now."""
        try:
            put(self._queue.store, [self._envelope(claim) for claim in claims])
            return {}
        except StoreError as error:
            if isinstance(error, StoreRefused) and error.refused:
                return error.refused
            sentence = f"the store is away, trying again until it is back: {error}"
            self._log.say(sentence, what="store away", level=WARNING, error=str(error))
            self._log.flush()
            return None

    def _said(self, id: str, name: str, reason: str | None) -> LogEntry:
        if reason is not None:
            return LogEntry("refused", run=id, text=f"in/{name} goes to err/: {reason}", error=reason, level=ERROR)
        return self._fired(id, name)

    def _fired(self, id: str, name: str) -> LogEntry:
        return LogEntry("fired", run=id, text=f"fired in/{name} as {id} on {self._queue.name}/{self._route}")

    def _commit(self, outcomes: Sequence[tuple[Claim, Outcome]]) -> None:
        with suppress(StoreError):  # the files are taken up again when their leases end, with the same ids
            self._source.commit(outcomes, now=self._clock.now())

    def _envelope(self, claim: Claim) -> Envelope:
        return claim.envelope._replace(queue=self._queue.name, route=self._route, due=self._queue.clock.now())

    def _pack(self, content: Content, id: str) -> bytes:
        head = pack_head(content.type, "", self._seal)
        body = seal_body(head, b"", encode_call((content.data,), {}), id=id, queue=self._queue.name)
        if len(body) > self._queue.max_payload:
            raise TooLarge(f"it takes {len(body):,} bytes where at most {self._queue.max_payload:,} are sent")
        return body

    def _catch_signals(self) -> dict[int, Any]:
        if threading.current_thread() is not threading.main_thread():
            return {}
        return catch(self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # Only set a flag: the interrupted thread may hold the lock that closing the source needs.
        self._stopping.set()
        self._source.wake()


def _outcome(reason: str | None) -> Outcome:
    return Outcome.complete(None) if reason is None else Outcome.failed(reason)
