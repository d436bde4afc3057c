"""skunq delete: ended runs are deleted before their time, by id or all that match."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from desk_runs import Desk
from hands import Hands

from skunkqueue import SkunkQueue
from skunkqueue.envelope import Outcome
from skunkqueue.errors import StoreError
from skunkqueue.persistence import Persister


@pytest.fixture
def url(tmp_path) -> str:
    return f"sqlite:///{tmp_path}/runs.db"


@pytest.fixture
def queue(url) -> Iterator[SkunkQueue]:
    with SkunkQueue("demo", url) as queue:
        yield queue


@pytest.fixture
def desk(url) -> Desk:
    return Desk(url)


def ended(queue, name, outcome, ago=100.0):
    """A run of the job with this name that ended so many seconds ago."""
    now = queue.clock.now()
    run = queue.job(name=name)(len).options(routes=name).fire("abc")
    (claim,) = Hands(queue, name).take()
    assert queue.store.commit([(claim, outcome)], now=now - ago) == {run.id}
    return run


@pytest.fixture
def runs(queue):
    return {
        "well": ended(queue, "count", Outcome.complete(b"m\x01")),
        "badly": ended(queue, "pay", Outcome.failed("ConnectionError: no bank")),
        "again": ended(queue, "pay", Outcome.failed("ConnectionError: no bank")),
        "now": ended(queue, "now", Outcome.complete(b"m\x01"), ago=1.0),
        "queued": queue.job(name="wait")(len).fire("abc"),
    }


def left(queue):
    return {run.id for run in queue.runs(limit=None)}


@pytest.mark.parametrize("length", [8, 28])
def test_an_ended_run_is_deleted_and_nothing_else(desk, queue, runs, length):
    assert desk("delete", runs["well"].id[-length:]) == f"{runs['well'].id} deleted\n"

    assert left(queue) == {run.id for name, run in runs.items() if name != "well"}
    assert queue.count()["succeeded"] == 1
    desk("show", runs["well"].id, code=1)


def test_what_has_not_ended_is_refused_with_what_to_do(desk, queue, runs):
    desk("delete", runs["queued"].id, code=1)
    assert desk.complaint == (
        f"Error: run {runs['queued'].id} is queued; only runs that have ended can be deleted: cancel it first\n"
    )

    desk("cancel", runs["queued"].id)
    assert "ended less than a minute ago: deleted when that is over" in desk("delete", runs["queued"].id)


def test_a_run_that_has_just_ended_is_deleted_when_its_minute_is_over(desk, queue, runs):
    """For so long its id is remembered, so that a put that is repeated does not run it again."""
    assert desk("delete", runs["now"].id) == (
        f"{runs['now'].id} ended less than a minute ago: deleted when that is over\n"
    )
    assert runs["now"].id in left(queue)

    queue.store.purge(now=queue.clock.now() + 60)
    assert runs["now"].id not in left(queue)


def test_all_that_match_are_deleted_once_somebody_agrees(desk, queue, runs):
    desk("delete", "--job", "pay", code=2)
    assert "2 runs of" in desk.complaint and "match: delete them? To do so without being asked" in desk.complaint
    assert runs["badly"].id in left(queue)

    assert desk("delete", "--error", "no bank", "--state", "failed", "--yes") == "2 runs deleted\n"
    assert left(queue) == {runs[name].id for name in ("well", "now", "queued")}


def test_of_those_that_match_only_ended_ones_are_deleted(desk, queue, runs):
    assert desk("delete", "--since", "1h", "--yes") == (
        "3 runs deleted\n1 run ended less than a minute ago: deleted when that is over\n"
    )

    assert left(queue) == {runs["queued"].id, runs["now"].id}
    assert desk("delete", "--job", "pay", "--yes") == "0 runs deleted\n"


def test_a_program_is_told_what_was_done_to_each(desk, runs):
    told = desk.json("delete", runs["well"].id, runs["now"].id, runs["queued"].id, "0" * 28, code=1)

    assert {row["id"]: row["done"] for row in told} == {
        runs["well"].id: True, runs["now"].id: True, runs["queued"].id: False, "0" * 28: False,
    }  # fmt: skip


def test_ids_and_filters_together_or_neither_are_refused(desk, queue, runs):
    for words in ((), (runs["well"].id, "--job", "pay")):
        desk("delete", *words, code=2)
        assert "delete wants IDs, or --state, --job, --route, --since or --error" in desk.complaint
    assert len(left(queue)) == 5


def test_a_store_that_cannot_delete_says_so():
    class Old(Persister):
        url = "old://here"

    with pytest.raises(StoreError, match="old://here is a store of an earlier version"):
        Old().discard(["1"], now=0.0)
