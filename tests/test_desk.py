"""The desk: what one sees of a run and of many, short ids, filters, and what is done to all that match."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from conftest import Opener
from desk_runs import Desk, fill
from hands import Hands
from pools import LIMIT, until

from skunkqueue import BadSignature, SkunkQueue, WorkerPool, current_run
from skunkqueue.cli.failures import cause_of
from skunkqueue.cli.which import Which
from skunkqueue.clock import Clock
from skunkqueue.codec import decode_value, encode_value, is_pickled, timed, times_of
from skunkqueue.envelope import Envelope, Outcome, Want
from skunkqueue.ids import new_id, new_token
from skunkqueue.notes import MOST_NOTES, Attempted, Notes, decode_notes, encode_notes
from skunkqueue.testing import drain


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/runs.db"


@pytest.fixture
def queue(url) -> Iterator[SkunkQueue]:
    with SkunkQueue("demo", url) as queue:
        yield queue


@pytest.fixture
def desk(url) -> Desk:
    return Desk(url)


@pytest.fixture
def runs(queue):
    return fill(queue)


# -- a run, in Python ------------------------------------------------------------------------------------------------


def test_a_run_tells_its_call_wherever_it_was_fired(queue, runs, url):
    assert (runs["well"].job, runs["well"].args, runs["well"].kwargs) == ("shop:send", ("ann",), {"html": True})
    with SkunkQueue("demo", url) as other:
        assert other.run(runs["well"].id).args == ("ann",)
        assert other.run(runs["well"].id).open_call() == (("ann",), {"html": True})


def test_pickled_arguments_are_opened_only_when_asked_and_signed(queue, runs):
    run = queue.run(runs["pickled"].id)
    copied = new_id(queue.clock.now())
    queue.put([run._record.envelope._replace(id=copied)])

    assert (run.args, run.kwargs) == (None, None)
    assert run.open_call().args == ([object],)
    assert queue.run(copied).args is None
    with pytest.raises(BadSignature):
        queue.run(copied).open_call()


def test_a_run_tells_when_it_ran_for_how_long_and_where(queue, runs):
    run = runs["well"]

    assert run.due.timestamp() - 0.01 <= run.started.timestamp() <= queue.clock.now()
    assert 0 < run.took < LIMIT
    assert run.worker is not None
    assert runs["queued"].started is runs["queued"].took is runs["queued"].worker is None


def test_the_history_has_every_attempt_with_its_error(runs):
    first, second = runs["badly"].history
    (well,) = runs["well"].history

    assert (first.error, second.error, well.error) == (*["ValueError: no such user bad"] * 2, None)
    assert runs["badly"].started == second.started >= first.started
    assert runs["badly"].took == second.took
    assert runs["queued"].history == []


def test_the_history_goes_on_to_the_attempt_that_succeeds(queue):
    @queue.job(retries=2, backoff=0)
    def third():
        if current_run().attempt < 3:
            raise OSError(f"attempt {current_run().attempt}")

    run = third.fire()
    drain(queue)

    assert [one.error for one in run.history] == ["OSError: attempt 1", "OSError: attempt 2", None]


@pytest.mark.parametrize("in_process", [True, False])
def test_a_pool_writes_the_times_and_a_running_run_says_since_when(queue, in_process, tmp_path):
    @queue.job
    def hold(path, limit):
        import os
        import time

        end = time.monotonic() + limit
        while not os.path.exists(path) and time.monotonic() < end:
            time.sleep(0.01)

    go = tmp_path / "go"
    run = hold.fire(str(go), LIMIT)
    with WorkerPool(queue, in_process=in_process, lease=1):
        until(lambda: run.state == "running")
        until(lambda: run.started is not None, message="the worker does not tell since when it runs")
        since = run.started
        assert (run.took, run.worker) == (None, "default.1")
        go.touch()
        run.wait(LIMIT)

    assert abs((run.started - since).total_seconds()) < 0.5
    assert run.took > 0
    assert [one.worker for one in run.history] == ["default.1"]


def test_times_stand_before_a_result_and_change_nothing_of_it():
    for value in (None, "text", {1, 2}, object):
        plain = encode_value(value)
        written = timed(plain, 1234.5, 0.25)

        assert times_of(written) == (1234.5, 0.25)
        assert decode_value(written) == value
        assert is_pickled(written) == is_pickled(plain)
        assert times_of(plain) is None


def test_notes_keep_the_last_attempts_that_there_is_room_for():
    notes = Notes(starts=100)
    for number in range(100):
        notes = notes.failed(Attempted(float(number), 1.0, "w.1", f"{number} " + "é" * 1000))

    packed = encode_notes(notes)
    read = decode_notes(packed)

    assert len(packed) <= MOST_NOTES
    assert read.starts == 100
    assert read.history[-1].started == 99.0
    assert len(read.history) > 5


def test_notes_of_a_newer_version_are_read_as_far_as_they_are_known():
    import msgpack

    newer = msgpack.packb((1, 2, (), None, None, False, [[1.0, 2.0, "w", "e"]], "something new"))

    assert decode_notes(newer) == Notes(1, 2, history=(Attempted(1.0, 2.0, "w", "e"),))
    assert decode_notes(msgpack.packb((1, 2, (), None, None, False))) == Notes(1, 2)


# -- show ------------------------------------------------------------------------------------------------------------


def facts(desk, *words):
    return dict(line.split(maxsplit=1) for line in desk("show", *words).splitlines() if not line.startswith(" "))


def test_show_prints_the_call_as_one_would_write_it(desk, runs):
    shown = facts(desk, runs["well"].id)

    assert shown["call"] == "send('ann', html=True)"
    assert re.fullmatch(r"[\d.]+ ms|[\d.]+ s", shown["took"])
    assert shown["result"] == "3"
    assert shown["route"] == "default"


def test_show_tells_each_attempt(desk, runs):
    said = desk("show", runs["badly"].id)

    told = re.findall(r"^(?:history)? +\d{4}-\d\d-\d\d [\d:]+  [\d.]+ m?s  \S+  (.*)$", said, re.MULTILINE)
    assert told == ["ValueError: no such user bad"] * 2
    assert "attempts    2 (retries: 1)" in said


def test_pickled_arguments_are_shown_only_when_asked(desk, runs):
    assert facts(desk, runs["pickled"].id)["call"] == "count(<arguments that are pickled or cannot be read>)"
    assert facts(desk, runs["pickled"].id, "--unpickle")["call"] == "count([<class 'object'>])"
    assert facts(desk, runs["pickled"].id)["route"] == "slow (high)"


def test_a_document_about_a_run_has_its_call_times_and_history(desk, runs):
    row = desk.json("show", runs["badly"].id)

    assert (row["args"], row["kwargs"], len(row["history"])) == (["bad"], {}, 2)
    assert row["history"][0]["error"] == "ValueError: no such user bad"
    assert row["started"].endswith("+00:00")
    assert desk.json("show", runs["pickled"].id)["args"] is None


# -- runs ------------------------------------------------------------------------------------------------------------


def test_a_list_shows_short_ids_ages_and_how_long_it_took(desk, runs):
    rows = desk.rows("runs", "--columns", "id,state,job,age,took,route")

    assert [row["ID"] for row in rows] == [run.id[-8:] for run in reversed(runs.values())]
    assert rows[0]["AGE"] in ("in 59m", "in 60m")
    assert rows[-1]["TOOK"].endswith((" ms", " s"))
    assert {row["ROUTE"] for row in rows} == {"default", "slow (high)"}


def test_columns_are_chosen_by_name_and_a_wrong_one_is_told(desk, runs):
    rows = desk.rows("runs", "--columns", "full-id,call", "--job", "send")
    assert [row["FULL-ID"] for row in rows] == [runs[name].id for name in ("later", "queued", "badly", "well")]
    assert rows[-1]["CALL"] == "send('ann', html=True)"

    desk("runs", "--columns", "id,jobs", code=2)
    assert "there is no column 'jobs'; did you mean 'job'?" in desk.complaint


def test_a_list_fits_eighty_columns(desk, runs, queue, monkeypatch):
    from rich.console import Console

    from skunkqueue.cli import output

    queue.job(name="shop.warehouse.orders:reconcile_everything")(len).fire("x" * 300)
    console = Console(width=80, file=__import__("io").StringIO(), force_terminal=False)
    rows = [[row[name] for name in ("ID", "STATE", "JOB", "AGE", "TOOK", "RESULT")] for row in desk.rows("runs")]

    console.print(output.table(["ID", "STATE", "JOB", "AGE", "TOOK", "RESULT"], rows, is_wide=False))

    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert all(run.id[-8:] in "\n".join(lines) for run in runs.values())
    assert "shop.warehouse." in "\n".join(lines), "a job keeps 16 characters"


@pytest.mark.parametrize(
    ("filter", "shown"),
    [
        (["--job", "shop:count"], {"pickled"}),
        (["--job", "count"], {"pickled"}),
        (["--error", "NO SUCH user"], {"badly"}),
        (["--error", "timeout"], set()),
        (["--since", "1h"], {"well", "badly", "pickled", "queued", "later"}),
        (["--since", "2999-01-01"], set()),
        (["--state", "scheduled", "--job", "send"], {"later"}),
    ],
    ids=lambda each: " ".join(sorted(each)),
)
def test_lists_are_filtered(desk, runs, filter, shown):
    found = {row["id"] for row in desk.json("runs", *filter)}

    assert found == {runs[name].id for name in shown}


def test_since_looks_no_further_than_it_must(queue):
    now = queue.clock.now()
    old = Envelope(f"{int((now - 7200) * 1000):012x}{0:016x}", "demo", "default", now - 7200, b"")
    new = Envelope(new_id(now), "demo", "default", now, b"")
    queue.put([old, new])

    which = Which(since=3600.0)

    assert [run.id for run in queue.runs() if which.fits(run._record, which.from_time(now))] == [new.id]


def test_a_since_that_is_no_time_is_told(desk, runs):
    desk("runs", "--since", "yesterday", code=2)

    assert "'yesterday' is no time: give how long ago, as 90s, 5m, 1h30m, or a date" in desk.complaint


# -- short ids -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [6, 8, 27, 28])
def test_any_unique_ending_of_an_id_is_enough(desk, runs, length):
    assert desk.json("show", runs["queued"].id[-length:])["id"] == runs["queued"].id
    assert desk("cancel", runs["queued"].id[-length:]) == f"{runs['queued'].id} cancelled\n"
    assert desk("retry", runs["queued"].id[-length:]) == f"{runs['queued'].id} queued again\n"
    assert desk("promote", runs["later"].id[-length:]) == f"{runs['later'].id} promoted\n"


def test_an_ending_of_two_is_refused_with_both(desk, queue):
    now = queue.clock.now()
    ids = [f"0123456789ab{number}abcdabcdabcd777" for number in "12"]
    queue.put([Envelope(id, "demo", "default", now, b"") for id in ids])

    desk("cancel", "cd777", code=2)

    assert f"runs {ids[1]} and {ids[0]} both end in cd777: give more of it" in desk.complaint
    assert queue.count()["queued"] == 2


def test_ids_are_shown_as_long_as_it_takes_to_tell_them_apart(desk, queue):
    now = queue.clock.now()
    queue.put([Envelope(f"0123456789ab{number}abcdabcdabcd777", "demo", "default", now, b"") for number in "12"])

    shown = {row["ID"] for row in desk.rows("runs", "--columns", "id,age")}

    assert shown == {"1abcdabcdabcd777"[-16:], "2abcdabcdabcd777"[-16:]}


# -- all that match --------------------------------------------------------------------------------------------------


def test_nothing_is_done_to_many_without_being_asked_or_told(desk, runs, queue):
    desk("cancel", "--job", "send", code=2)

    assert (
        "2 runs of" in desk.complaint
        and "match: cancel them? To do so without being asked, give --yes" in desk.complaint
    )
    assert runs["queued"].state == "queued"


def test_all_that_match_are_cancelled_and_the_number_told(desk, runs):
    assert desk("cancel", "--job", "send", "--yes") == "2 runs cancelled\n"

    assert [runs[name].state for name in ("queued", "later", "well", "pickled")] == [
        "cancelled", "cancelled", "succeeded", "queued",
    ]  # fmt: skip


def test_all_that_match_are_promoted_or_retried(desk, runs):
    assert desk("promote", "--state", "scheduled", "--yes") == f"{runs['later'].id} promoted\n"
    assert desk("retry", "--error", "no such user", "--yes") == f"{runs['badly'].id} queued again\n"
    assert (runs["later"].state, runs["badly"].state) == ("queued", "queued")
    assert desk("retry", "--error", "no such user", "--yes") == "0 runs queued again\n"


def test_failed_with_a_filter_takes_only_what_matches(desk, runs):
    assert desk("retry", "--failed", "--job", "count") == "0 runs queued again\n"
    assert runs["badly"].state == "failed"
    assert "1 failed runs" in desk("retry", "--failed")


def test_ids_and_filters_together_are_refused(desk, runs):
    desk("cancel", runs["queued"].id, "--job", "send", code=2)

    assert "cancel wants IDs, or --state, --job, --route, --since or --error for all that match, and not both" in (
        desk.complaint
    )


# -- failures --------------------------------------------------------------------------------------------------------


@pytest.fixture
def failed(queue):
    @queue.job(name="shop:pay")
    def pay(amount):
        if amount < 0:
            raise ValueError(f"{amount} is below zero")
        raise ConnectionError("no bank")

    runs = [pay.fire(amount) for amount in (-1, -2, 5)]
    drain(queue)
    return runs


def test_failures_are_grouped_by_type_and_place(desk, failed):
    last, first = desk.json("errors")

    assert (first["count"], first["type"]) == (2, "ValueError")
    assert re.fullmatch(r"test_desk\.py:\d+ pay", first["place"])
    assert (last["count"], last["type"], last["example"]) == (1, "ConnectionError", failed[2].id)
    assert first["first"] <= first["last"]
    rows = desk.rows("errors", "--error", "below zero")
    assert [(row["COUNT"], row["EXAMPLE"]) for row in rows] == [("2", failed[1].id[-8:])]


def test_one_group_is_retried_by_an_example(desk, failed):
    desk("retry", "--like", failed[0].id[-8:], code=2)
    assert "2 runs failed as" in desk.complaint

    assert desk("retry", "--like", failed[0].id[-8:], "--yes") == "2 runs queued again\n"
    assert [run.state for run in failed] == ["queued", "queued", "failed"]


def test_only_what_failed_can_be_an_example(desk, failed, runs):
    desk("retry", "--like", runs["well"].id, code=2)

    assert "has not failed, it is succeeded" in desk.complaint


def test_without_a_traceback_numbers_do_not_tell_failures_apart(queue):
    run = queue.job(len)
    causes = []
    for number in (1, 22):
        fired = run.fire("x")
        hands = Hands(queue)
        (claim,) = hands.take()
        hands.commit(claim, Outcome.failed(f"poison: {number} workers died of it"))
        causes.append(cause_of(queue.run(fired.id)._record))

    assert causes[0] == causes[1]


def test_nothing_failed_is_a_sentence(desk, queue):
    queue.count()

    assert desk("errors") == ""
    assert desk.complaint.startswith("nothing has failed on sqlite:///")


# -- top -------------------------------------------------------------------------------------------------------------


def test_top_shows_routes_workers_and_failures(desk, runs, queue):
    about = {"queue": "demo", "routes": ["slow"], "host": "here", "pid": 5, "runs": 7, "running": ["x"]}
    now = queue.clock.now()
    about["doing"] = [["shop:count", now - 200]]
    queue.store.beat("pool-1.slow.1", json.dumps(about), until=now + 60)

    said = desk("top", "--once", "-q", "demo")
    lines = [line.split() for line in said.splitlines()]

    assert ["ROUTE", "QUEUED", "OLDEST", "RUNNING", "IN/S", "OUT/S", "SUCCEEDED", "FAILED"] in lines
    assert next(line for line in lines if line[:1] == ["default"])[1::4] == ["2", "1"]
    assert ["slow.1", "slow", "here", "5", "7", "shop:count", "3m"] in lines
    assert any(line[:2] == ["1", "ValueError:"] and line[-1] == runs["badly"].id[-8:] for line in lines)


def test_top_says_that_there_are_no_workers(desk, runs):
    assert "no workers" in desk("top", "--once")
    document = desk.json("top")
    slow = next(row for row in document["routes"] if row["route"] == "slow")
    assert (slow["queued"], slow["oldest"] >= 0, document["workers"]) == (1, True, [])


def test_rates_are_those_between_two_looks():
    from skunkqueue.cli.top import Look, rates

    lane = ("demo", "default")
    before = Look(10.0, {lane: {"queued": 5, "running": 1, "succeeded": 10, "failed": 0, "cancelled": 0}})
    after = Look(12.0, {lane: {"queued": 9, "running": 1, "succeeded": 15, "failed": 1, "cancelled": 0}})
    purged = Look(14.0, {lane: {"queued": 9, "running": 1, "succeeded": 0, "failed": 1, "cancelled": 0}})

    assert rates(None, before, lane) is None
    assert rates(before, after, lane) == (5.0, 3.0)
    assert rates(after, purged, lane) == (0.0, 0.0)


def test_the_oldest_is_found_without_claiming_on_every_store(open_store: Opener) -> None:
    store = open_store()
    now = Clock(store.offset).now()
    ids = [new_id(now - 100 + number) for number in range(3)]
    store.put([Envelope(id, "demo", "r", now - 100 + number, b"") for number, id in enumerate(ids)])
    store.put([Envelope(new_id(now), "demo", "later", now + 100, b"")])

    def ripe(route: str) -> float | None:
        want = Want("demo", (f"{route}^high", route, f"{route}^low"), "top", new_token(), 0)
        return store.exchange((), [want], now=now, until=now).next_ripe

    assert ripe("r") == pytest.approx(now - 100, abs=0.01)
    later = ripe("later")
    assert later is None or later > now
    assert ripe("none") is None
    assert {record.state for record in store.get(ids).values()} == {"queued"}


# -- one name per worker ---------------------------------------------------------------------------------------------


def test_a_worker_has_one_name_in_the_log_the_list_and_ps(queue, desk, tmp_path):
    import io

    from skunkqueue.facts import worker_label

    log = io.StringIO()
    with WorkerPool(queue, ["foo", "foo"], log=log) as pool:
        until(lambda: log.getvalue().count("started, process") == 2)
        until(lambda: len(queue.alive_on(["foo"])) == 2)
        until(lambda: all(row["PID"] for row in desk.rows("workers")))  # the first beat may come before they are up
        rows = desk.rows("workers")
        pids = {row["WORKER"]: row["PID"] for row in rows}
        assert set(pids) == {"foo.1", "foo.2"} == set(map(worker_label, queue.alive_on(["foo"])))
        assert {row["POOL"] for row in rows} == {pool.name}
        for name, pid in pids.items():
            assert f"{name} started, process {pid}" in log.getvalue()
            until(lambda pid=pid: b"skunq" in title(pid), message=str(pids))
            assert name.encode() in title(pid)


def title(pid):
    with open(f"/proc/{pid}/cmdline", "rb") as line, open(f"/proc/{pid}/comm", "rb") as short:
        return line.read() + short.read()
