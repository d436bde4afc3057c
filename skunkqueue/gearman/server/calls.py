"""The calls to the store, on a thread of their own where they may block: what comes during one goes with the next.

Nothing is held back to fill a batch. Where the store is away, what was asked is asked again until it is back: a
repeated put is one put, a repeated claim says that it is, and a repeated commit is told "taken".
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final

from skunkqueue.clock import ticks
from skunkqueue.envelope import Claim, Envelope, Outcome, Want
from skunkqueue.errors import StoreError, StoreRefused
from skunkqueue.gearman.server.batch import WHILE, AskCall, Batch, ClaimCall, CommitCall, PutCall, Questions
from skunkqueue.pauses import pause_after
from skunkqueue.persistence import Persister
from skunkqueue.persistence.put import put
from skunkqueue.queue import SkunkQueue
from skunkqueue.worker import exchange_isolated

PATIENCE: Final = 30.0
"""Seconds for which a submission waits for a store that is away."""

Then = Callable[[], None]
"""What to do on the loop's thread, once an answer is there."""


class StoreCalls:
    """Asks the store of a queue. All methods are for the loop's thread, on which every ``then`` is called too.

    ``post`` has a function called on the loop's thread, from any thread. ``say`` is told when the store is away, and
    when it is back; ``failed`` of a ``then`` that raised.
    """

    def __init__(
        self,
        queue: SkunkQueue,
        post: Callable[[Then], None],
        say: Callable[[str], None],
        failed: Callable[[Exception], None],
        *,
        lease: float,
    ) -> None:
        self._queue = queue
        self.lease = lease
        self._store = queue.store
        self._post = post
        self._say = say
        self._failed = failed
        self._next = Batch()
        self._questions = Questions()
        self._progress: dict[str, CommitCall] = {}
        self._failures = 0
        self._again_at = 0.0
        self._is_busy = False
        self._work: threading.Condition | None = None if queue.one_process else threading.Condition()
        self._given: Batch | None = None
        self._is_closed = False
        self._thread: threading.Thread | None = None
        if self._work is not None:
            self._thread = threading.Thread(target=self._serve, name="skunkqueue-gearman-store", daemon=True)
            self._thread.start()

    @property
    def is_away(self) -> bool:
        return self._failures > 0

    @property
    def is_idle(self) -> bool:
        """Whether all is answered but questions of peers."""
        return not self._is_busy and not self._next

    def put(self, envelope: Envelope, then: Callable[[str | Exception], None]) -> None:
        self._next.puts.append(PutCall(envelope, then, ticks()))

    def commit(self, claim: Claim, outcome: Outcome, then: Callable[[bool, str], None]) -> None:
        self._progress.pop(claim.id, None)
        self._next.commits.append(CommitCall(claim, outcome, then))

    def progress(self, claim: Claim, outcome: Outcome) -> None:
        """Commit this with the next call, unless the claim's end comes before that."""
        self._progress[claim.id] = CommitCall(claim, outcome, _ignore)

    def claim(self, want: Want, then: Callable[[Sequence[Claim], float], None]) -> None:
        self._next.claims.append(ClaimCall(want, then))

    def ask(self, ask: Callable[[Persister, float], Any], then: Callable[[Any], None], *, whose: Any = None) -> None:
        """``ask`` is called with the store and its time. A StoreError that it raises is what ``then`` is given.

        ``whose`` question it is, if it is that of a peer: then it has its turn among those of the others.
        """
        call = AskCall(ask, then, whose)
        if whose is None:
            self._next.asks.append(call)
        else:
            self._questions.add(call)

    def forget(self, asker: Any) -> None:
        """Ask no more of what it wanted to know."""
        self._questions.forget(asker)

    def flush(self) -> float | None:
        """Have the store asked; gives in how many seconds to call again, None where that is not needed."""
        if self._progress:
            self._next.commits += self._progress.values()
            self._progress.clear()
        end = ticks() + WHILE
        while (self._next or self._questions) and not self._is_busy:
            left = self._again_at - ticks()
            if self._failures and left > 0:
                return left
            batch = self._next.take()
            if self._questions and self._questions.pause <= 0:
                batch.questions = self._questions.take()
            if not batch:
                return max(0.0, self._questions.pause)
            self._begin(batch)
            if not self._is_busy and ticks() > end:
                return 0.0  # hear the peers before that goes on
        return None

    def _begin(self, batch: Batch) -> None:
        self._is_busy = True
        if self._work is None:
            self._end(batch, *self._perform(batch))
            return
        with self._work:
            self._given = batch
            self._work.notify()

    def _end(self, batch: Batch, done: Sequence[Then], error: Exception | None) -> None:
        """On the loop's thread: answer."""
        self._is_busy = False
        if error is None:
            if self._failures:
                self._failures = 0
                self._say(f"the store is back: {self._store.url}")
        else:
            self._failures += 1
            self._again_at = ticks() + pause_after(self._failures)
            self._next.again(batch)
            if self._failures == 1:
                self._say(f"the store is away, trying again until it is back: {error}")
        began = ticks()
        for then in done:
            try:
                then()
            except Exception as fault:  # of ours: it concerns this one alone
                self._failed(fault)
        if batch.took:
            batch.took += ticks() - began
        self._questions.asked(batch)
        if error is not None:
            self._lose_patience(error)

    def _lose_patience(self, error: Exception) -> None:
        """Refuse submissions that have waited for long. One that was put after all is a job that nobody waits for."""
        late = [call for call in self._next.puts if ticks() - call.since > PATIENCE]
        self._next.puts = [call for call in self._next.puts if ticks() - call.since <= PATIENCE]
        for call in late:
            call.then(error)

    def close(self) -> None:
        """End the thread, once the call that is under way has ended."""
        self._is_closed = True
        if self._work is not None:
            with self._work:
                self._work.notify()

    def join(self, timeout: float) -> None:
        if self._thread is not None:
            self._thread.join(timeout)

    # on the store's thread

    def _serve(self) -> None:
        work = self._work
        assert work is not None
        while True:
            with work:
                while self._given is None and not self._is_closed:
                    work.wait()
                batch, self._given = self._given, None
            if batch is None:
                return
            self._post(_ended(self, batch, *self._perform(batch)))

    def end(self, batch: Batch, done: Sequence[Then], error: Exception | None) -> None:
        """The call of this batch has ended."""
        self._end(batch, done, error)
        self.flush()

    def _perform(self, batch: Batch) -> tuple[list[Then], Exception | None]:
        """Ask the store. What is answered is taken out of the batch; gives what to do then, and what went wrong."""
        done: list[Then] = []
        try:
            if batch.puts:
                done += self._put(batch.puts)
                batch.puts = []
            if batch.commits or batch.claims:
                done += self._exchange(batch.commits, batch.claims)
                batch.commits, batch.claims = [], []
            while batch.asks:
                done.append(self._ask(batch.asks[0]))
                del batch.asks[0]
            self._answer(batch, done)
        except Exception as error:  # whatever it is: what was asked must not be lost
            return done, error
        return done, None

    def _answer(self, batch: Batch, done: list[Then]) -> None:
        began = ticks()
        while batch.questions and batch.took < WHILE:
            done.append(self._ask(batch.questions[0]))
            del batch.questions[0]
            batch.took = ticks() - began

    def _put(self, calls: Sequence[PutCall]) -> Iterable[Then]:
        envelopes = [call.envelope for call in calls]
        refused: dict[str, str] = {}
        try:
            ids = put(self._store, envelopes)
        except StoreRefused as error:
            if not error.refused:
                raise
            refused = dict(error.refused)
            stored = [envelope for envelope in envelopes if envelope.id not in refused]
            again = iter(put(self._store, stored) if stored else ())  # these are put, so this only tells their ids
            ids = [envelope.id if envelope.id in refused else next(again) for envelope in envelopes]
        for call, id in zip(calls, ids, strict=True):
            reason = refused.get(call.envelope.id)
            yield _given(call.then, id if reason is None else StoreRefused(reason))

    def _exchange(self, commits: Sequence[CommitCall], claims: Sequence[ClaimCall]) -> Iterable[Then]:
        now = self._queue.clock.now()
        outcomes = [(call.claim, call.outcome) for call in commits]
        wants = [call.want for call in claims]
        result = exchange_isolated(self._store, outcomes, wants, now=now, until=now + self.lease, trouble=self._trouble)
        for commit in commits:
            yield _told(commit.then, commit.claim.id in result.taken, result.refused.get(commit.claim.id, ""))
        found: dict[str, list[Claim]] = {}
        for each in result.claims:
            found.setdefault(each.token, []).append(each)
        # Where a want was filled, ``next_ripe`` says nothing of the others.
        next_ripe = 0.0 if found else (result.next_ripe if result.next_ripe is not None else float("inf"))
        for want in claims:
            yield _found(want.then, found.get(want.want.token, ()), next_ripe)

    def _trouble(self, text: str) -> None:
        self._post(lambda: self._say(text))

    def _ask(self, call: AskCall) -> Then:
        try:
            answer = call.ask(self._store, self._queue.clock.now())
        except StoreError as error:
            answer = error
        except Exception as fault:  # asking again would meet it again
            answer = StoreError(f"{type(fault).__name__}: {fault}")
            self._post(partial(self._failed, fault))
        return _given(call.then, answer)


def _ended(calls: StoreCalls, batch: Batch, done: Sequence[Then], error: Exception | None) -> Then:
    return lambda: calls.end(batch, done, error)


def _ignore(taken: bool, refusal: str) -> None:
    """Whether a progress was taken changes nothing."""


def _given(then: Callable[[Any], None], answer: Any) -> Then:
    return lambda: then(answer)


def _told(then: Callable[[bool, str], None], taken: bool, reason: str) -> Then:
    return lambda: then(taken, reason)


def _found(then: Callable[[Sequence[Claim], float], None], claims: Sequence[Claim], next_ripe: float) -> Then:
    return lambda: then(claims, next_ripe)
