"""Pauses of routes: nothing starts there, everything else goes on, and nothing is lost."""

from __future__ import annotations

import io
import json
import time
from datetime import timedelta

import pytest
from click.testing import CliRunner
from pools import until

from skunkqueue import SkunkQueue, WorkerPool, WrongCall
from skunkqueue.cli.commands import skunq
from skunkqueue.envelope import State


@pytest.fixture
def queue(pools_url):
    with SkunkQueue("demo", pools_url) as queue:
        yield queue


@pytest.fixture
def jobs(queue):
    mail = queue.event(lambda number: number, name="mail", routes="mail")
    other = queue.event(lambda number: number, name="other", routes="other")
    return mail, other


def working(queue, *routes, **options):
    return WorkerPool(queue, routes, in_process=True, log=io.StringIO(), **options)


def test_a_paused_route_waits_and_others_go_on(queue, jobs):
    mail, other = jobs
    with working(queue, "mail", "other", lease=600):
        assert mail.fire(1).wait(30) == 1

        queue.pause("mail")
        time.sleep(1)
        waiting = mail.fire(2)
        assert [other.fire(n).wait(30) for n in range(3)] == [0, 1, 2]
        assert waiting.state == State.QUEUED
        assert waiting.attempts == 0
        assert queue.paused() == {"mail": None}
        assert queue.resume("mail")

        assert waiting.wait(30) == 2
    assert not queue.resume("mail")


def test_a_pool_that_starts_later_knows_of_the_pause_before_its_first_run(queue, jobs):
    mail, _ = jobs
    queue.pause("mail")
    runs = mail.fire_many([(n,) for n in range(50)])

    with working(queue, "mail"):
        time.sleep(1)
        assert runs.state == State.QUEUED


def test_a_burst_ends_although_its_route_is_paused(queue, jobs):
    mail, other = jobs
    queue.pause("mail")
    waiting, done = mail.fire(1), other.fire(2)

    working(queue, "mail", "other").run_until_idle()
    working(queue, "mail").run_until_idle()

    assert (waiting.state, done.state) == (State.QUEUED, State.SUCCEEDED)


def test_a_pause_ends_by_itself(queue, jobs):
    mail, _ = jobs
    queue.pause("mail", until=timedelta(seconds=2))
    run = mail.fire(1)
    began = time.monotonic()

    with working(queue, "mail", lease=3):
        assert run.wait(30) == 1

    assert time.monotonic() - began > 1.5
    assert queue.paused() == {}


def test_what_runs_ends_and_what_was_handed_ahead_goes_back(queue):
    @queue.event(routes="mail")
    def slow(number):
        time.sleep(0.05)
        return number

    with working(queue, "mail"):
        runs = slow.fire_many([(n,) for n in range(100)])
        until(lambda: queue.count()[State.SUCCEEDED] > 5)
        queue.pause("mail")
        time.sleep(1)
        ended = queue.count()[State.SUCCEEDED]
        time.sleep(0.5)
        assert queue.count() == {**dict.fromkeys(queue.count(), 0), State.SUCCEEDED: ended, State.QUEUED: 100 - ended}
        queue.resume("mail")
        assert runs.wait(60) == list(range(100))
    assert {run.attempts for run in runs} == {1}


def test_a_pause_is_told_on_the_command_line(tmp_path):
    url = f"sqlite:///{tmp_path}/runs.db"

    def run(*words):
        return CliRunner().invoke(skunq, [*words, "--url", url, "-q", "demo"])

    assert run("pause", "-r", "mail").output == "mail is paused\n"
    assert run("pause", "-r", "news", "--for", "1h").output.startswith("mail is paused\nnews is paused until 20")
    assert set(json.loads(run("pause", "--json").output)) == {"mail", "news"}
    assert run("resume", "-r", "mail").output == "mail resumed\n"
    assert isinstance(run("resume", "-r", "mail").exception, WrongCall)
    assert run("pause", "--for", "1h").exit_code == 2
    assert run("resume", "-r", "news").exit_code == 0
    assert "no route of queue demo is paused" in run("pause").output
