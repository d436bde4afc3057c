"""``skunq check``: one sentence and an exit code."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hands import Hands
from test_cli import Skunq

from skunkqueue import SkunkQueue
from skunkqueue.envelope import Outcome
from skunkqueue.notes import NONE, encode_notes
from skunkqueue.testing.makers import sealed


@pytest.fixture
def skunq(tmp_path: Path) -> Skunq:
    return Skunq(tmp_path)


@pytest.fixture
def queue(skunq: Skunq) -> Iterator[SkunkQueue]:
    """With two runs that have waited a quarter of an hour, one that is due later, and a worker on another route."""
    with SkunkQueue("demo", skunq.url) as queue:
        now = queue.now()
        waiting = [sealed(1, due=now - 900), sealed(2, route="foo^high", due=now - 900.5)]
        queue.store.put([*waiting, sealed(3, due=now + 900)])
        queue.store.beat("one", json.dumps({"queue": "demo", "routes": ["bar"]}), until=now + 600)
        yield queue


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("", " is well: 1 worker, 0 running, 2 queued, the oldest for 15m "),
        ("--workers 1 --oldest 1h30m --queued 2", " is well: 1 worker"),
        ("-r bar --workers 1 --oldest 1s", " is well: 1 worker, 0 running, 0 queued\n"),
    ],
)
def test_a_queue_as_wanted_is_well(skunq: Skunq, queue: SkunkQueue, options: str, told: str) -> None:
    said = skunq("check", "-q", "demo", *options.split())

    assert told in said
    assert f"queue demo of {skunq.url}" in said
    assert len(said.splitlines()) == 1 and not skunq.complaint


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--workers 2", "1 worker alive, wanted 2 or more"),
        ("-r foo --workers 1", "route foo of queue demo of "),
        ("-r foo --workers 1", "0 workers alive, wanted 1 or more"),
        ("--oldest 5m", "the oldest run has waited 15m "),
        ("--oldest 5m", "s, wanted 5m 00s or less"),
        ("--queued 1", "2 runs queued, wanted 1 or fewer"),
        ("--queued 1 --workers 2", "alive, wanted 2 or more; 2 runs queued"),
    ],
)
def test_a_queue_that_is_not_as_wanted_exits_with_1(skunq: Skunq, queue: SkunkQueue, options: str, told: str) -> None:
    said = skunq("check", "-q", "demo", *options.split(), code=1)

    assert told in skunq.complaint
    assert len(skunq.complaint.splitlines()) == 1 and not said


def test_runs_of_a_job_that_no_worker_could_have_wait(skunq: Skunq, queue: SkunkQueue) -> None:
    queue.store.put([sealed(4, route="strange", due=queue.now() - 30)])
    hands = Hands(queue, "strange")
    (claim,) = hands.take()
    notes = encode_notes(NONE._replace(unknown=queue.now() - 30))
    hands.commit(claim, Outcome.again(due=queue.now() + 60, error="there is no module shop here", notes=notes))

    assert "is well: 0 workers, 0 running, 1 queued, the oldest for 3" in skunq("check", "-r", "strange")
    skunq("check", "-q", "demo", "-r", "strange", "--oldest", "5s", code=1)

    assert "the oldest run has waited 3" in skunq.complaint
    assert "1 run of a job that a worker could not have: there is no module shop here" in skunq.complaint
    assert '"oldest": 3' in skunq("top", "-q", "demo", "--json")


def test_the_oldest_is_the_first_of_any_priority(skunq: Skunq, queue: SkunkQueue) -> None:
    found: Any = json.loads(skunq("check", "-q", "demo", "--oldest", "60", "--json", code=1))

    assert found["ok"] is False and len(found["wrong"]) == 1
    assert (found["workers"], found["queued"], found["running"]) == (1, 2, 0)
    assert 900.5 <= found["oldest_seconds"] < 1000


def test_other_queues_are_left_out(skunq: Skunq, queue: SkunkQueue) -> None:
    assert "0 queued" in skunq("check", "-q", "other")
    skunq("check", "-q", "other", "--workers", "1", code=1)
    assert "2 queued" in skunq("check")


def test_a_store_that_is_away_exits_with_2(skunq: Skunq) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        url = f"redis://me:secret@127.0.0.1:{closed.getsockname()[1]}/0"

        skunq("check", "-q", "demo", "--url", url, code=2)

    assert skunq.complaint.startswith("Error: ") and len(skunq.complaint.splitlines()) == 1
    assert "secret" not in skunq.complaint
    skunq("check", "--url", "sqlite:///none.db", code=2)
    skunq("check", "--oldest", "soon", code=2)
    assert "give seconds, or 5m, 1h30m" in skunq.complaint
