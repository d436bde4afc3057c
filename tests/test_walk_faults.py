"""The tests of a store can fail: each planted fault is caught by its named promise, and by the random walk."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from skunkqueue.envelope import State
from skunkqueue.persistence import Persister
from skunkqueue.persistence.memory import MemoryPersister
from skunkqueue.persistence.records import Records
from skunkqueue.testing import StoreContract, random_walk, waits

SEEDS = 40


class Fault(MemoryPersister):
    """A store with one thing wrong, and the promise that this breaks."""

    promise = ""
    walked = True  # whether the walk sees it too

    def rewrite(self, id: str, **changes: object) -> None:
        self._records[id] = self._records[id]._replace(**changes)

    def records(self, *states: State):
        return [record for record in self._records.values() if record.state in states]


class SecondStands(Fault):
    """Putting an id again writes over what there is."""

    changed: tuple[str, ...] = ()

    def _put(self, envelope):
        record = self._records.get(envelope.id)
        if record is not None:
            second = {name: getattr(envelope, name) for name in self.changed}
            self.rewrite(envelope.id, envelope=record.envelope._replace(**second))
        return super()._put(envelope)


class SecondBodyStands(SecondStands):
    changed = ("body",)


class SecondRouteStands(SecondStands):
    changed = ("route",)


class SecondDueStands(SecondStands):
    changed = ("due",)


class SecondUniqueKeyStands(SecondStands):
    changed = ("unique",)


class SecondQueueStands(SecondStands):
    changed = ("queue",)


class SecondPutOpensAgain(SecondStands):
    """Only once the run has ended."""

    def _put(self, envelope):
        record = self._records.get(envelope.id)
        if record is not None and not record.open and envelope != record.envelope:
            del self._records[envelope.id]
        return super()._put(envelope)


class SecondPutMeetsAUniqueKey(SecondStands):
    """Its answer names the run that has the second envelope's unique key."""

    def _put(self, envelope):
        taken = self._open_with(envelope)
        return taken.id if taken is not None else super()._put(envelope)


class CommitWithoutToken(Fault):
    promise = "a_late_worker_cannot_commit_over_the_new_one"

    def commit(self, outcomes, *, now):
        mine = [
            (claim._replace(token=self._records[claim.id].token or ""), outcome)
            for claim, outcome in outcomes
            if claim.id in self._records
        ]
        return super().commit(mine, now=now)


class ExtendWithoutToken(Fault):
    promise = "another_token_extends_nothing"

    def extend(self, claims, *, until):
        known = [claim for claim in claims if claim.id in self._records]
        return super().extend([c._replace(token=self._records[c.id].token or "") for c in known], until=until)


class ExtendShortens(Fault):
    promise = "extending_never_shortens_a_lease"

    def extend(self, claims, *, until):
        held = super().extend(claims, until=until)
        for id in held:
            self.rewrite(id, ripe=until)
        return held


class ExtendOnlyWhatHasNotLapsed(Fault):
    promise = "extending_revives_a_lease_that_nobody_took"

    def claim(self, wants, *, now, until):
        self.latest = now
        return super().claim(wants, now=now, until=until)

    def extend(self, claims, *, until):
        now = until - 15.3
        return super().extend(
            [c for c in claims if c.id in self._records and self._records[c.id].ripe > now], until=until
        )


class NewestFirst(Fault):
    promise = "claims_come_in_the_order_of_ripe_and_id"

    def _ripe(self, queue, route, now, limit):
        return super()._ripe(queue, route, now, limit)[::-1]


class OrderedByIdAlone(Fault):
    promise = "claims_come_in_the_order_of_ripe_and_id"

    def _ripe(self, queue, route, now, limit):
        return sorted(super()._ripe(queue, route, now, limit), key=lambda record: record.id)


class RoutesInAnyOrder(Fault):
    promise = "routes_are_served_in_the_order_listed"

    def claim(self, wants, *, now, until):
        wants = [want._replace(routes=tuple(sorted(want.routes))) for want in wants]
        return super().claim(wants, now=now, until=until)


class RipeOnlyAfterItsTime(Fault):
    promise = "a_run_is_not_claimed_before_it_is_due"

    def _ripe(self, queue, route, now, limit):
        return [record for record in super()._ripe(queue, route, now, limit) if record.ripe < now]


class TimesCutShort(Fault):
    promise = "a_run_is_stored_as_it_was_sealed"

    def put(self, envelopes):
        return super().put([e._replace(due=float(f"{e.due:.9g}")) for e in envelopes])


class LeaseForgotten(Fault):
    promise = "a_leased_run_is_not_given_to_another"

    def _lease(self, record, want, until):
        claim = super()._lease(record, want, until)
        self.rewrite(record.id, ripe=record.ripe)
        return claim


class LapseCountedForQueued(Fault):
    promise = "a_claim_carries_the_run_and_its_lease"

    def _lease(self, record, want, until):
        return super()._lease(record._replace(state=State.RUNNING), want, until)


class LapseNotCounted(Fault):
    promise = "a_run_whose_lease_ended_counts_a_lapse"

    def _lease(self, record, want, until):
        return super()._lease(record._replace(state=State.QUEUED), want, until)


class ExpiredGiven(Fault):
    promise = "an_expired_run_is_not_given_but_ends_cancelled"

    def _claim(self, want, now, until):
        for route in want.routes:
            for record in self._ripe(want.queue, route, now, want.limit):
                yield self._lease(record, want, until)


class RepeatedWantForgotten(Fault):
    promise = "a_repeated_want_gets_first_what_its_token_holds"

    def claim(self, wants, *, now, until):
        return super().claim([want._replace(repeated=False) for want in wants], now=now, until=until)


class RepeatedWantGivesTwice(Fault):
    promise = "a_repeated_want_gives_no_run_twice"

    def _hold(self, record):
        if self._records[record.id].token == record.token:
            return super()._hold(self._records[record.id])
        return super()._hold(record)


class LimitForEachRoute(Fault):
    promise = "no_more_than_the_limit_is_given"

    def _claim(self, want, now, until):
        for route in want.routes:
            yield from super()._claim(want._replace(routes=(route,)), now, until)


class CancelLeavesTheToken(Fault):
    promise = "a_commit_after_a_cancel_is_refused"

    def cancel(self, ids, *, now):
        ids = list(ids)
        tokens = {id: record.token for id, record in self.get(ids).items()}
        cancelled = super().cancel(ids, now=now)
        for record in cancelled:
            self.rewrite(record.id, token=tokens[record.id])
        return cancelled


class CancelForgetsTheWorker(Fault):
    promise = "a_running_run_is_cancelled_and_its_lease_taken_away"

    def cancel(self, ids, *, now):
        return [record._replace(worker=None) for record in super().cancel(ids, now=now)]


class UntouchedGoesBehind(Fault):
    promise = "an_untouched_run_takes_its_old_place"

    def _commit(self, claim, outcome, now):
        taken = super()._commit(claim, outcome, now)
        if taken and outcome.kind == "untouched" and self._records[claim.id].state == State.QUEUED:
            self.rewrite(claim.id, ripe=now)
        return taken


class AgainNowInsteadOfDue(Fault):
    promise = "a_run_to_be_run_again_at_no_time_takes_its_first_place"

    def _commit(self, claim, outcome, now):
        if outcome.kind == "again" and outcome.due is None:
            outcome = outcome._replace(due=now)
        return super()._commit(claim, outcome, now)


class UniqueNotReleased(Fault):
    promise = "a_unique_key_is_released_by_each_ending"

    def _open_with(self, envelope):
        for record in self._records.values():
            other = record.envelope
            same = (other.queue, other.route, other.unique) == (envelope.queue, envelope.route, envelope.unique)
            if same and envelope.unique is not None and other.id != envelope.id:
                return record
        return None


class UniqueWhateverTheRoute(Fault):
    promise = "a_unique_key_holds_for_its_queue_and_route_only"

    def _open_with(self, envelope):
        return next(
            (r for r in self._records.values() if r.open and r.id != envelope.id
             and envelope.unique is not None and r.envelope.unique == envelope.unique), None
        )  # fmt: skip


class ReopenedWhereTaken(Fault):
    promise = "a_run_is_not_reopened_where_its_unique_key_is_taken"

    def _reopen(self, record, now):
        return super()._reopen(record._replace(envelope=record.envelope._replace(unique=None)), now)


class NotesKeptByReopen(Fault):
    promise = "a_failed_run_is_queued_as_if_never_run"

    def _reopen(self, record, now):
        reopened = super()._reopen(record, now)
        if reopened:
            self.rewrite(record.id, notes=record.notes)
        return reopened


class PurgeForgetsTheMinute(Fault):
    promise = "an_ended_run_is_remembered_a_minute_at_least"

    def _end(self, record, state, now, value=None, error=None, keep=None):
        ended = super()._end(record, state, now, value, error, keep)
        self.rewrite(record.id, ripe=now + (record.envelope.keep if keep is None else keep))
        return ended


class PurgeEndsLeasedRuns(Fault):
    promise = "purge_leaves_a_leased_run_past_its_expiry"

    def purge(self, *, now, limit=1000):
        leased = [r for r in self.records(State.RUNNING) if r.envelope.expires and r.envelope.expires <= now < r.ripe]
        for record in leased:
            self.rewrite(record.id, ripe=now)
        return super().purge(now=now, limit=limit)


class PurgeWithoutLimit(Fault):
    promise = "purge_goes_in_bounded_steps"
    walked = False  # it purges without a limit too: what a limit leaves is the store's to choose

    def purge(self, *, now, limit=1000):
        return super().purge(now=now, limit=10_000)


class AddressedRunsStay(Fault):
    promise = "purge_ends_runs_addressed_to_a_worker_that_is_gone"

    def _purge_addressed(self, now, limit):
        return 0


class RepeatedCommitRefused(Fault):
    promise = "a_repeated_commit_is_taken_and_changes_nothing"

    def _commit(self, claim, outcome, now):
        return self._running(claim) is not None and super()._commit(claim, outcome, now)


class RepeatedCommitWritesAgain(Fault):
    promise = "a_repeated_commit_is_taken_and_changes_nothing"

    def _commit(self, claim, outcome, now):
        record = self._records.get(claim.id)
        if record is not None and record.token == claim.token and not record.open and record.ended:
            self.rewrite(claim.id, ended=now)
        return super()._commit(claim, outcome, now)


class ProgressClearsNotes(Fault):
    promise = "outcomes_of_one_batch_are_written_in_order"

    def _commit(self, claim, outcome, now):
        if outcome.kind == "progress":
            outcome = outcome._replace(notes=b"")
        return super()._commit(claim, outcome, now)


class NotesLostWhenNoneAreGiven(Fault):
    promise = "notes_stay_unless_an_outcome_sets_them"

    def _commit(self, claim, outcome, now):
        return super()._commit(claim, outcome._replace(notes=outcome.notes or b""), now)


class KeepOfTheOutcomeIgnored(Fault):
    promise = "an_outcome_may_say_how_long_to_keep_the_run"

    def _commit(self, claim, outcome, now):
        return super()._commit(claim, outcome._replace(keep=None), now)


class EmptyValueIsNoValue(Fault):
    promise = "no_value_and_an_empty_value_are_told_apart"

    def _commit(self, claim, outcome, now):
        return super()._commit(claim, outcome._replace(value=outcome.value or None), now)


class ExchangeClaimsFirst(Fault):
    promise = "exchange_commits_and_then_claims"

    def exchange(self, outcomes, wants, *, now, until):
        claims = self.claim(wants, now=now, until=until)
        taken, _, next_ripe, _ = super().exchange(outcomes, [w._replace(limit=0) for w in wants], now=now, until=until)
        return super().exchange([], [], now=now, until=until)._replace(taken=taken, claims=claims, next_ripe=next_ripe)


class NextRipeForgetsLeases(Fault):
    promise = "exchange_says_when_a_lease_ends"

    def exchange(self, outcomes, wants, *, now, until):
        given = super().exchange(outcomes, wants, now=now, until=until)
        routes = {(want.queue, route) for want in wants for route in want.routes}
        queued = [r for r in self.records(State.QUEUED) if (r.envelope.queue, r.envelope.route) in routes]
        return given._replace(next_ripe=min((record.ripe for record in queued), default=None))


class CountMissesCancels(Fault):
    promise = "count_is_right_after_every_change"

    def count(self):
        return {place: number for place, number in super().count().items() if place[2] != "cancelled"}


class CountKeepsZeros(Fault):
    promise = "count_counts_by_queue_route_and_stored_state"

    def count(self):
        places = {(r.envelope.queue, r.envelope.route) for r in self._records.values()}
        return {(*place, str(state)): 0 for place in places for state in (State.FAILED,)} | super().count()


class RouteByPrefix(Fault):
    promise = "find_filters_by_queue_and_route"

    def find(self, which, *, now, after=None, limit=100):
        everything = super().find(which._replace(route=None), now=now, after=after, limit=100_000)
        return [r for r in everything if r.envelope.route.startswith(which.route or "")][:limit]


class PageOverlaps(Fault):
    promise = "find_gives_the_newest_first_page_by_page"

    def find(self, which, *, now, after=None, limit=100):
        return super().find(which, now=now, after=after and after + "0", limit=limit)


class OrderGivenOnce(Fault):
    promise = "an_order_stays_until_it_was_seen"

    def beat(self, worker, about, *, seen=(), until):
        orders = super().beat(worker, about, seen=seen, until=until)
        self._orders[worker] = []
        return orders


class UnregisteredWorkerStays(Fault):
    promise = "a_beat_until_now_unregisters"

    def beat(self, worker, about, *, seen=(), until):
        longest = max(until, self._beats.get(worker, ("", 0.0))[1])
        return super().beat(worker, about, seen=seen, until=longest)


class GivenTwice(Fault):
    promise = "claimers_at_once_never_get_the_same_run"

    def claim(self, wants, *, now, until):
        with self._changed:
            before = Records(self._records.values())
            claims = super().claim(wants, now=now, until=until)
            self._turn = getattr(self, "_turn", 0) + 1
            if self._turn == 2:  # as if two had read before either wrote
                self._records = before
            return claims


FAULTS = [fault for fault in (*Fault.__subclasses__(), *SecondStands.__subclasses__()) if fault is not SecondStands]


NAMED = [fault for fault in FAULTS if fault.promise]


@pytest.fixture(params=FAULTS, ids=lambda fault: fault.__name__)
def fault(request: pytest.FixtureRequest) -> type[Fault]:
    return request.param


@pytest.mark.parametrize("fault", NAMED, ids=lambda fault: fault.__name__)
def test_a_named_promise_catches_the_fault(fault: type[Fault]) -> None:
    with pytest.raises(AssertionError):
        getattr(StoreContract(), f"test_{fault.promise}")(fault())


@pytest.mark.slow
def test_the_random_walk_catches_the_fault(fault: type[Fault]) -> None:
    caught = walks_caught(fault)

    assert bool(caught) == fault.walked


def test_a_named_promise_catches_a_wait_that_nobody_wakes(monkeypatch: pytest.MonkeyPatch) -> None:
    class NobodyIsWoken(MemoryPersister):
        def wait(self, keys, timeout):
            time.sleep(timeout)

    monkeypatch.setattr(waits, "SOON", 0.5)
    monkeypatch.setattr(waits, "LONG", 1.0)
    with pytest.raises(AssertionError):
        StoreContract().test_a_change_between_the_look_and_the_wait_is_not_lost(NobodyIsWoken())


@pytest.mark.slow
def test_a_sound_store_is_caught_by_nothing() -> None:
    assert walks_caught(MemoryPersister) == []


def test_a_difference_is_named_by_seed_step_and_verb() -> None:
    with pytest.raises(AssertionError, match=r"seed 3, step \d+, after \w+\((.|\n)*wanted (.|\n)*got ") as first:
        random_walk(CountMissesCancels(), seed=3)
    with pytest.raises(AssertionError) as second:
        random_walk(CountMissesCancels(), seed=3)

    assert str(first.value) == str(second.value)


def walks_caught(make_store: Callable[[], Persister]) -> list[int]:
    """The first seed whose walk finds the fault, if any does."""
    for seed in range(SEEDS):
        try:
            random_walk(make_store(), seed=seed)
        except AssertionError:
            return [seed]
    return []
