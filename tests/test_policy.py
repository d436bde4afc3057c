"""The judge, without threads or stores."""

import pytest

from skunkqueue.envelope import Claim, Envelope, Seal
from skunkqueue.policy import (
    NONE,
    Attempted,
    Backoff,
    Died,
    Notes,
    Raised,
    Stopped,
    TimedOut,
    Unknown,
    admit,
    decode_notes,
    delay_after,
    encode_notes,
    hand_back,
    judge,
    mark,
)

NOW = 1_000_000.0


def claim(lapses=0, notes=b""):
    return Claim(Envelope("a" * 28, "demo", "foo", NOW, b""), "token", "worker", NOW + 15, lapses, notes)


def after(outcome):
    return decode_notes(outcome.notes)


def test_a_failure_without_retries_fails_for_good_and_keeps_its_traceback():
    outcome = judge(Raised("ValueError", "boom", "Traceback ..."), Seal(), NONE, now=NOW)

    assert outcome.kind == "failed"
    assert outcome.error == "ValueError: boom"
    assert b"Traceback ..." in outcome.value
    assert outcome.keep == 7 * 86400
    assert after(outcome).starts == 1


def test_retries_are_spent_one_by_one_then_it_fails():
    seal, notes, kinds = Seal(retries=2, jitter=False), NONE, []
    for _ in range(3):
        outcome = judge(Raised("ValueError", "boom"), seal, notes, now=NOW)
        notes = after(outcome)
        kinds.append(outcome.kind)

    assert kinds == ["again", "again", "failed"]
    assert notes.starts == 3


def test_the_delay_grows_up_to_its_limit():
    seal = Seal(first=1, factor=2, limit=5, jitter=False)

    assert [delay_after(n, seal) for n in (1, 2, 3, 4, 2000)] == [1, 2, 4, 5, 5]


def test_jitter_stays_between_nothing_and_the_delay():
    seal = Seal(first=1, factor=2, limit=600, jitter=True)
    delays = [delay_after(3, seal) for _ in range(200)]

    assert all(0 <= delay <= 4 for delay in delays)
    assert max(delays) - min(delays) > 0.5


def test_a_timeout_spends_a_retry():
    seal = Seal(retries=1, timeout=5.0)

    outcome = judge(TimedOut(5.0), seal, NONE, now=NOW)
    second = judge(TimedOut(5.0), seal, after(outcome), now=NOW)

    assert outcome.kind == "again"
    assert second.kind == "failed"
    assert second.error == "TimeoutError: did not end within 5 s"


def test_fail_ends_it_whatever_its_retries():
    assert judge(Raised("Fail", "no", final=True), Seal(retries=9), NONE, now=NOW).kind == "failed"


def test_asking_to_retry_counts_only_where_there_are_retries():
    asked = Raised("Retry", "", asked=True, after=3.0)

    endless = judge(asked, Seal(retries=0), Notes(starts=50), now=NOW)
    counted = judge(asked, Seal(retries=1), Notes(failures=1), now=NOW)

    assert (endless.kind, endless.due) == ("again", NOW + 3.0)
    assert counted.kind == "failed"


def test_three_deaths_are_poison_and_their_signals_are_named():
    notes, outcomes = NONE, []
    for how in ("SIGKILL", "SIGSEGV", "exit code 3"):
        outcomes.append(judge(Died(how), Seal(), notes, now=NOW))
        notes = after(outcomes[-1])

    assert [o.kind for o in outcomes] == ["again", "again", "failed"]
    assert outcomes[0].due is None  # it takes its old place
    for how in ("poison", "SIGKILL", "SIGSEGV", "exit code 3"):
        assert how in outcomes[2].error


def test_a_death_beside_others_makes_a_suspect_and_counts_for_nobody():
    outcome = judge(Died("SIGKILL", alone=False), Seal(), NONE, now=NOW)

    assert outcome.kind == "again"
    assert after(outcome) == Notes(suspect=True)
    assert admit(claim(notes=outcome.notes), Seal()).careful


@pytest.mark.parametrize("end", [Stopped(), Died("SIGKILL", alone=False), Died("SIGKILL"), Raised("E", "e")])
def test_patience_begins_anew_after_a_worker_has_run_the_job(end):
    met = after(judge(Unknown("no module"), Seal(), NONE, now=NOW, patience=600))
    ran = after(judge(end, Seal(retries=1), met, now=NOW + 1200, patience=600))

    assert judge(Unknown("no module"), Seal(retries=1), ran, now=NOW + 1201, patience=600).kind == "again"


def test_an_interrupted_run_goes_back_with_no_attempt_spent():
    outcome = judge(Stopped(), Seal(retries=1), Notes(starts=1, failures=1), now=NOW)

    assert outcome.kind == "untouched"
    assert after(outcome) == Notes(starts=1, failures=1)


def test_at_most_once_never_runs_again():
    once = Seal(at_most_once=True, retries=3)

    for what in (Stopped(), Died("SIGKILL"), Raised("ValueError", "boom"), TimedOut(1.0)):
        assert judge(what, once, NONE, now=NOW).kind == "failed"


def test_an_unknown_job_waits_for_a_worker_that_knows_it_then_fails():
    first = judge(Unknown("no job x"), Seal(), NONE, now=NOW, patience=100)
    late = judge(Unknown("no job x"), Seal(), after(first), now=NOW + 100, patience=100)

    assert first.kind == "again"
    assert NOW < first.due <= NOW + 15
    assert after(first).starts == 0
    assert late.kind == "failed"
    assert "no job x" in late.error


def test_an_ordinary_claim_is_admitted_as_it_is():
    assert admit(claim(), Seal()) == (None, NONE, False, False)


def test_a_first_lapse_counts_for_nobody_but_makes_it_careful():
    entry = admit(claim(lapses=1), Seal())

    assert entry.outcome is None
    assert entry.careful
    assert entry.alone
    assert entry.notes.deaths == ()


def test_a_lapse_after_the_mark_is_a_death_and_the_third_is_poison():
    notes, lapses = NONE, 1
    for _ in range(2):
        marked = mark(claim(lapses=lapses), notes)
        lapses += 1
        entry = admit(claim(lapses=lapses, notes=marked.notes), Seal())
        assert entry.outcome is None
        notes = entry.notes

    last = admit(claim(lapses=lapses + 1, notes=mark(claim(lapses=lapses), notes).notes), Seal())

    assert last.outcome.kind == "failed"
    assert "poison" in last.outcome.error


def test_a_lapse_without_a_mark_never_counts():
    notes = b""
    for lapses in range(1, 20):
        entry = admit(claim(lapses=lapses, notes=notes), Seal())
        assert entry.outcome is None
        assert entry.notes.deaths == ()
        notes = encode_notes(entry.notes)


def test_at_most_once_found_after_a_lapse_that_followed_its_mark_is_failed_not_run():
    once = Seal(at_most_once=True)
    assert admit(claim(), once).careful
    assert not admit(claim(), once).alone
    assert admit(claim(lapses=1), once).alone

    marked = mark(claim(), NONE)
    entry = admit(claim(lapses=1, notes=marked.notes), once)

    assert entry.outcome.kind == "failed"
    assert "at_most_once" in entry.outcome.error


def test_handing_back_takes_the_mark_away():
    outcome = hand_back(Notes(starts=1, mark=2))

    assert outcome.kind == "untouched"
    assert after(outcome).mark is None
    assert hand_back(NONE).notes is None


def test_notes_survive_and_garbage_counts_as_none():
    notes = Notes(2, 1, ("SIGKILL", "exit code 3"), 4, 12.5, True)

    assert decode_notes(encode_notes(notes)) == notes
    assert decode_notes(b"\xffgarbage") == NONE
    assert len(encode_notes(Notes(deaths=("x" * 10_000,) * 50))) < 4096


def test_backoff_refuses_what_cannot_be_right():
    with pytest.raises(ValueError, match="first of Backoff"):
        Backoff(first=-1)


def test_a_run_that_was_marked_and_handed_back_bears_no_mark_any_more():
    outcome = hand_back(NONE, marked=True)

    assert decode_notes(outcome.notes).mark is None
    assert outcome.notes is not None  # None would leave the mark in the store


def test_an_attempt_that_was_lost_with_its_pool_is_in_the_history():
    first = admit(claim(lapses=1), Seal(), NOW)  # nobody knows whether it had started
    marked = mark(claim(lapses=1), first.notes, NOW + 1)

    second = admit(claim(lapses=2, notes=marked.notes), Seal(), NOW + 21)

    assert (first.notes.history, second.notes.starts) == ((), 1)
    assert second.notes.history == (Attempted(NOW + 1, 20.0, "worker", "its pool vanished"),)
    again = decode_notes(mark(claim(lapses=2), second.notes, NOW + 22).notes)
    assert (again.history, again.begun) == (second.notes.history, (NOW + 22, "worker"))


def test_a_run_that_may_start_once_tells_when_its_pool_vanished_with_it():
    seal = Seal(at_most_once=True)
    marked = mark(claim(), NONE, NOW)

    entry = admit(claim(lapses=1, notes=marked.notes), seal, NOW + 16)

    assert after(entry.outcome).history == (Attempted(NOW, 16.0, "worker", "its pool vanished"),)


def test_what_was_marked_and_ended_or_was_handed_back_has_lost_no_attempt():
    notes = admit(claim(notes=mark(claim(), NONE, NOW).notes), Seal(at_most_once=True), NOW).notes

    assert after(hand_back(notes, marked=True)) == NONE
    assert after(judge(Raised("ValueError", "no"), Seal(), notes, now=NOW)).begun is None
