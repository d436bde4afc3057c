"""MongoDB: a document a run, every write fenced by a token; polled, or woken by a change stream."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import wait as wait_for
from contextlib import suppress
from datetime import UTC
from typing import Any, Final, TypeVar

from pymongo.change_stream import DatabaseChangeStream

from skunkqueue.envelope import Claim, Envelope, Exchange, Filter, Order, Outcome, Record, Want
from skunkqueue.errors import StoreAway, StoreError
from skunkqueue.persistence import Key, Limits, Persister, RunKey, WorkerKey, WorkKey
from skunkqueue.persistence.mongodb import claim as claiming
from skunkqueue.persistence.mongodb import end as ending
from skunkqueue.persistence.mongodb import housekeeping, look
from skunkqueue.persistence.mongodb.beside import Beside
from skunkqueue.persistence.mongodb.connect import Link, again_if_cut, check, patiently
from skunkqueue.persistence.mongodb.documents import Document
from skunkqueue.persistence.mongodb.errors import is_internal, speaking, speaking_within_transaction
from skunkqueue.persistence.mongodb.notify import LONGEST_OF_WORK, Notifier
from skunkqueue.persistence.mongodb.probe import Features, features_of
from skunkqueue.persistence.mongodb.put import put
from skunkqueue.persistence.mongodb.stream import AWAIT_MS, PIPELINE, News, Stream
from skunkqueue.persistence.mongodb.url import Target, parse_url
from skunkqueue.persistence.mongodb.via import put_via
from skunkqueue.persistence.url import StoreConfig
from skunkqueue.routes import base_route

default_cfg: StoreConfig = {"backend": "mongodb", "conn_url": "localhost:27017", "dbname": "skunkqueue"}

PUT_RETRY: Final = 2.5
"""Seconds for which ``put`` is retried while the server is away. A repeated put has no further effect."""

QUICK: Final = 0.05
"""An answer to the question for the server's time that took longer than so many seconds is not used."""

T = TypeVar("T")


class MongoPersister(Persister):
    """Runs in a MongoDB, or in a server that speaks its protocol. Thread-safe; survives fork.

    Raises StoreAway, StoreRefused, StoreVersion or StoreError; no message contains a user's name or password.
    """

    is_far = True
    takes_via = "a pymongo ClientSession in a transaction"
    wakes_one = True  # a wait ends while there is work, so it must be work that the waiter can claim
    limits: Limits = Limits(body=15_000_000, value=15_000_000, batch=40_000_000, items=100_000)
    """A document holds 16 MB, a message 48 MB, a batch 100,000 items."""

    def __init__(self, target: Target) -> None:
        self.url: str = target.url
        self.target = target
        self._link = Link(target)
        self._claimer = claiming.Claimer()
        self._beside = Beside()
        self._notifier = Notifier(self._link, self._open_stream)
        self._features: Features | None = None
        self._measured = False

    def __repr__(self) -> str:
        return f"MongoPersister({self.url!r})"

    # the path of a job

    def put(self, envelopes: Sequence[Envelope], *, via: Any = None) -> list[str]:
        """Store runs. ``via`` is a pymongo ``ClientSession`` of yours in a transaction: the runs are then stored when
        you commit it, together with your own documents or not at all; a unique key cannot be asked for then.
        Pymongo's own error rises where the whole transaction is to be repeated, as ``with_transaction`` does.
        """
        if via is not None:
            with speaking_within_transaction(self.url):
                return put_via(via, envelopes, self._link)
        ids = patiently(lambda: self._speak(lambda: put(self._link.runs, envelopes)), PUT_RETRY)
        self._notifier.happened(_work(envelopes))
        return ids

    def claim(self, wants: Sequence[Want], *, now: float, until: float) -> list[Claim]:
        return self._claim(wants, now, until, {})

    def _claim(self, wants: Sequence[Want], now: float, until: float, bore: dict[str, str | None]) -> list[Claim]:
        """Claim; ``bore`` is given the token that each run bore before."""
        in_order = self._know().sorts_by_index
        return self._speak(lambda: self._claimer.claim(self._link.runs, wants, now, until, bore, in_order=in_order))

    def extend(self, claims: Sequence[Claim], *, until: float) -> set[str]:
        return self._again(lambda: claiming.extend(self._link.runs, claims, until))

    def commit(self, outcomes: Sequence[tuple[Claim, Outcome]], *, now: float) -> set[str]:
        taken = self._again(lambda: ending.commit(self._link.runs, outcomes, now))
        self._notifier.happened(_news_of(outcomes))
        return taken

    def exchange(
        self, outcomes: Sequence[tuple[Claim, Outcome]], wants: Sequence[Want], *, now: float, until: float
    ) -> Exchange:
        """Commit and claim, both at once where neither can change what the other finds."""
        if not wants:
            return Exchange(self.commit(outcomes, now=now) if outcomes else set(), [], None)
        if ending.are_apart(outcomes, wants, now):
            taken, claims = self._commit_beside_claim(outcomes, wants, now, until)
        else:
            taken = self.commit(outcomes, now=now) if outcomes else set()
            claims = self.claim(wants, now=now, until=until)
        return Exchange(taken, claims, self._next_ripe(wants, claims, now))

    def _commit_beside_claim(
        self, outcomes: Sequence[tuple[Claim, Outcome]], wants: Sequence[Want], now: float, until: float
    ) -> tuple[set[str], list[Claim]]:
        """Both at once. Where the commit fails, what was claimed is handed back, as nobody would learn of it.

        An outcome that comes again, for a run that was handed back meanwhile and that this very claim took, is taken:
        the run bore its token.
        """
        bore: dict[str, str | None] = {}
        committing = self._beside.start(lambda: self.commit(outcomes, now=now))
        try:
            claims = self._claim(wants, now, until, bore)
        finally:
            wait_for([committing])
        try:
            taken = committing.result()
            return taken | {claim.id for claim, _ in outcomes if bore.get(claim.id) == claim.token}, claims
        except BaseException:
            with suppress(StoreError):
                self.commit([(claim, Outcome.untouched()) for claim in claims], now=now)
            raise

    def _next_ripe(self, wants: Sequence[Want], claims: list[Claim], now: float) -> float | None:
        """When to look again. If the server does not say, but has given claims: now."""
        in_order = self._know().sorts_by_index
        try:
            return self._again(lambda: self._claimer.next_ripe(self._link.runs, wants, claims, now, in_order=in_order))
        except StoreError:
            if not claims:
                raise
            return now

    # the desk

    def cancel(self, ids: Iterable[str], *, now: float) -> list[Record]:
        wanted = sorted(set(ids))
        records = self._speak(lambda: ending.cancel(self._link.runs, wanted, now))
        self._notifier.happened(RunKey(record.id) for record in records)
        return records

    def reopen(self, ids: Iterable[str], *, now: float) -> set[str]:
        wanted = sorted(set(ids))
        return self._speak(lambda: ending.reopen(self._link.runs, wanted, now))

    def promote(self, ids: Iterable[str], *, now: float) -> set[str]:
        wanted = sorted(set(ids))
        return self._speak(lambda: ending.promote(self._link.runs, wanted, now))

    def discard(self, ids: Iterable[str], *, now: float) -> set[str]:
        wanted = sorted(set(ids))
        return self._again(lambda: ending.discard(self._link.runs, wanted, now))

    def get(self, ids: Iterable[str]) -> dict[str, Record]:
        wanted = list(ids)
        return self._again(lambda: look.get(self._link.runs, wanted))

    def find(self, which: Filter, *, now: float, after: str | None = None, limit: int = 100) -> list[Record]:
        return self._again(lambda: look.find(self._link.runs, which, now, after, limit))

    def get_brief(self, ids: Iterable[str]) -> dict[str, Record]:
        wanted = list(ids)
        return self._again(lambda: look.get_brief(self._link.runs, wanted))

    def find_brief(
        self, which: Filter, *, now: float, after: str | None = None, limit: int = 100, values: int | None = None
    ) -> list[Record]:
        return self._again(lambda: look.find_brief(self._link.runs, which, now, after, limit, values))

    def open_of(self, ids: Iterable[str]) -> dict[str, float]:
        wanted = list(ids)
        return self._again(lambda: look.open_of(self._link.runs, wanted))

    def count(self) -> dict[tuple[str, str, str], int]:
        return self._again(lambda: look.count(self._link.runs))

    # the workers

    def beat(self, worker: str, about: str, *, seen: Sequence[str] = (), until: float) -> list[Order]:
        return self._again(lambda: housekeeping.beat(self._link.workers, worker, about, seen, until))

    def tell(self, worker: str, order: str) -> None:
        self._speak(lambda: housekeeping.tell(self._link.workers, worker, order))
        self._notifier.happened([WorkerKey(worker)])

    def workers(self, *, now: float) -> dict[str, str]:
        return self._again(lambda: housekeeping.alive(self._link.workers, now))

    # housekeeping

    def purge(self, *, now: float, limit: int = 1000) -> int:
        self._again(lambda: check(self._link.database(), self.url))
        return self._again(lambda: housekeeping.purge(self._link.runs, self._link.workers, now, limit))

    def wait(self, keys: Sequence[Key], timeout: float) -> None:
        self._notifier.wait(keys, timeout)

    def rouse(self, keys: Sequence[Key]) -> bool:
        self._notifier.rouse(keys)
        return True

    def offset(self) -> float | None:
        """The server's clock minus ours, most exact after a short round trip: the first call takes the best of three.

        Later calls measure once, and return None if the answer took longer than ``QUICK``.
        """
        if not self._measured:
            took, offset = min(self._measure() for _ in range(3))
            self._measured = True
        else:
            took, offset = self._measure()
            if took >= QUICK:
                return None
        self._notifier.offset = offset
        return offset

    def _measure(self) -> tuple[float, float]:
        start = time.time()
        began = time.monotonic()
        there = self._again(self._link.hello)["localTime"]
        took = time.monotonic() - began
        return took, there.replace(tzinfo=UTC).timestamp() + 0.0005 - (start + took / 2)  # it counts milliseconds

    def warnings(self) -> list[str]:
        """What an operator should know about this server, as sentences."""
        features = self._know()
        return [
            text for text in (_about_durability(self._link), _about_waiting(features), _about_order(features)) if text
        ]

    def close(self) -> None:
        self._link.close()
        self._notifier.close()
        self._beside.close()
        self._features = None

    # speaking

    def _open_stream(self, tell: Callable[[News], None]) -> Stream | None:
        """The change stream of this process, where the server has them."""
        if not self._know().streams:
            return None
        return Stream(self._watch, tell)

    def _watch(self) -> DatabaseChangeStream[Document]:
        with self._link.unless_closed():
            return self._link.database().watch(list(PIPELINE), max_await_time_ms=AWAIT_MS)

    def _know(self) -> Features:
        """What the server can do, asked once."""
        features = self._features
        if features is None:
            features = self._features = self._again(lambda: features_of(self._link))
        return features

    def _speak(self, call: Callable[[], T]) -> T:
        """Call. An error that nobody has a name for concerns what was asked, unless the server answers nothing else
        either: a pool fails a run for good whose result is refused."""
        try:
            with speaking(self.url):
                return call()
        except StoreError as error:
            if is_internal(error) and not self._link.answers():
                raise StoreAway(str(error)) from error.__cause__
            raise

    def _again(self, call: Callable[[], T]) -> T:
        return again_if_cut(lambda: self._speak(call))


def _work(envelopes: Iterable[Envelope]) -> set[Key]:
    return {WorkKey(envelope.queue, base_route(envelope.route)) for envelope in envelopes}


def _news_of(outcomes: Sequence[tuple[Claim, Outcome]]) -> Iterable[Key]:
    for claim, outcome in outcomes:
        if outcome.kind in ("complete", "failed"):
            yield RunKey(claim.id)
        elif outcome.kind in ("again", "untouched"):
            yield WorkKey(claim.envelope.queue, base_route(claim.envelope.route))


def _about_durability(link: Link) -> str:
    concern = link.runs.write_concern.document
    if concern.get("w", 1) == "majority" and concern.get("j", True):
        return ""
    return (
        f"MongoDB confirms a write before a majority has it on the disk (the URL says {concern}): runs accepted last "
        "are lost if a server dies; leave w and journal out of the URL"
    )


def _about_waiting(features: Features) -> str:
    if features.streams:
        return ""
    return f"this server has no change streams: an idle pool looks for work every {LONGEST_OF_WORK * 1000:.0f} ms"


def _about_order(features: Features) -> str:
    if features.sorts_by_index:
        return ""
    return "this server does not find runs in the order of an index: claims take more trips where many runs wait"


def open_url(url: str) -> MongoPersister:
    """The store at a mongodb:// or mongodb+srv:// URL. Nothing is opened yet. Raises WrongCall for an invalid one."""
    return MongoPersister(parse_url(url))
