"""skunq spool: process a folder, feed a queue from it, put back what failed; one sentence for each wrong call."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pools import LIMIT, until

from skunkqueue import SkunkQueue
from skunkqueue.errors import StoreAway, StoreRefused
from skunkqueue.spool import drop
from skunkqueue.spool.feed import Feeder

HERE = Path(__file__).parent
SKUNQ = [sys.executable, "-c", "from skunkqueue.cli.spool import spool; spool(prog_name='skunq spool')"]


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    monkeypatch.setenv("MARKS", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    monkeypatch.setenv("SKUNKQUEUE_URL", f"sqlite:///{tmp_path}/runs.db")
    return tmp_path / "jobs"


def skunq(jobs, *words, check=True):
    return subprocess.run(
        [*SKUNQ, *map(str, words)], cwd=jobs.parent, capture_output=True, text=True, timeout=60, check=check
    )


def names(jobs, folder):
    return sorted(os.listdir(jobs / folder))


def test_it_processes_by_the_dictionary_of_a_module(jobs):
    drop(jobs / "in" / "one", {"type": "note", "name": "m"})
    drop(jobs / "in" / "two", {"type": "fail", "name": "f"})

    done = skunq(jobs, jobs, "-m", "spool_tasks", "--threads", 2, "--burst")

    assert (jobs.parent / "m").exists() and names(jobs, "in") == [] and names(jobs, "err") == ["two", "two.error"]
    assert "finished in/one note in" in done.stderr and "spool.2 started" in done.stderr


def test_a_module_of_the_current_folder_works_in_processes_too(jobs):
    (jobs.parent / "shop.py").write_text(
        "def greet(task): open('greeted', 'a').write(task['name'])\nprocessors = {'greet': greet}\n"
    )
    drop(jobs, {"type": "greet", "name": "you"})

    skunq(jobs, "jobs", "-m", "shop", "--workers", 1, "--burst")

    assert (jobs.parent / "greeted").read_text() == "you"


def test_it_works_until_a_signal(jobs):
    with subprocess.Popen([*SKUNQ, str(jobs), "-m", "spool_tasks"], stderr=subprocess.PIPE, text=True) as service:
        while "spool.4 started" not in service.stderr.readline():
            pass
        drop(jobs, {"type": "note", "name": "m"})
        until((jobs.parent / "m").exists)
        service.send_signal(signal.SIGTERM)
        assert service.wait(LIMIT) == 0


def test_what_failed_is_put_back(jobs):
    drop(jobs / "in" / "one", {"type": "fail", "name": "f"})
    skunq(jobs, jobs, "-m", "spool_tasks", "--burst")

    done = skunq(jobs, "retry", jobs / "err" / "one")

    assert done.stdout == f"put back: {jobs / 'in' / 'one'}\n"
    assert names(jobs, "in") == ["one"] and names(jobs, "err") == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "Missing argument"),
        (["jobs"], "takes -m MODULE"),
        (["jobs", "-m", "spool_tasks", "--into", "demo"], "takes -m MODULE"),
        (["jobs", "more", "-m", "spool_tasks"], "takes one folder"),
        (["jobs", "-m", "no_such_module"], "cannot import no_such_module"),
        (["jobs", "-m", "pools"], "needs a dictionary `processors`"),
        (["jobs", "-m", "spool_tasks", "-r", "foo"], "--route has no meaning"),
        (["jobs", "--into", "demo", "--retries", "3"], "--retries has no meaning"),
        (["jobs", "--into", "de/mo"], "queue"),
        (["retry"], "takes one file"),
        (["retry", "nothing"], "there is no"),
    ],
)
def test_a_wrong_call_gets_a_sentence(jobs, words, sentence):
    done = skunq(jobs, *words, check=False)

    assert done.returncode != 0 and sentence in done.stderr
    assert not jobs.exists()


# into a queue


def runs(queue):
    return sorted(queue.runs(limit=None), key=lambda run: run.id)


def test_each_type_is_fired_as_a_job_that_workers_know_by_its_name(jobs):
    (jobs.parent / "shop.py").write_text(
        "from skunkqueue import SkunkQueue\nqueue = SkunkQueue('demo')\n"
        "@queue.event(name='mail')\ndef send(task): return task['rcpt'].upper()\n"
    )
    drop(jobs, {"type": "mail", "rcpt": "you"})

    skunq(jobs, jobs, "--into", "demo", "-r", "mails", "--burst")
    work = ["work", "-q", "demo", "-r", "mails", "--import", "shop", "--burst"]
    subprocess.run([sys.executable, "-m", "skunkqueue.cli", *work], cwd=jobs.parent, timeout=60, check=True)

    with SkunkQueue("demo") as queue:
        (run,) = runs(queue)
        assert run.result == "YOU"
    assert names(jobs, "in") == names(jobs, "work") == names(jobs, "err") == []


def test_a_reply_that_was_lost_and_a_crash_fire_nothing_twice(jobs, monkeypatch):
    for number in range(5):
        drop(jobs, {"type": "mail", "n": number})
    with SkunkQueue("demo") as queue:
        feeder = Feeder(jobs, queue, lease=0.5)
        put = queue.store.put
        replies = [StoreAway("the reply was lost")]

        def lossy(envelopes):
            ids = put(envelopes)
            if replies:
                raise replies.pop()
            return ids

        monkeypatch.setattr(queue.store, "put", lossy)
        monkeypatch.setattr(feeder._source, "commit", lambda *args, **kwargs: os._exit)  # as if it died before it
        feeder.run(burst=True)
        assert len(names(jobs, "work")) == len(runs(queue)) == 5

        heir = Feeder(jobs, queue)
        until(lambda: heir.run(burst=True) or not names(jobs, "work"))

        assert len(runs(queue)) == 5
    assert names(jobs, "in") == names(jobs, "work") == names(jobs, "err") == []


def test_what_cannot_be_put_when_it_stops_keeps_its_id(jobs, monkeypatch):
    drop(jobs / "in" / "one", {"type": "mail"})
    with SkunkQueue("demo") as queue:
        feeder = Feeder(jobs, queue)

        def away(envelopes):
            feeder.stop()
            raise StoreAway("it is away")

        with monkeypatch.context() as context:
            context.setattr(queue.store, "put", away)
            feeder.run()
        (file,) = names(jobs, "work")
        Feeder(jobs, queue).run(burst=True)

        assert [run.id for run in runs(queue)] == [file.partition(".")[0]]


def test_what_is_too_large_for_the_queue_goes_to_err(jobs):
    drop(jobs / "in" / "one", {"type": "mail", "body": "x" * 2000})
    with SkunkQueue("demo", max_payload=1000) as queue:
        Feeder(jobs, queue).run(burst=True)

        assert runs(queue) == [] and names(jobs, "err") == ["one", "one.error"]


def test_what_the_store_does_not_take_goes_to_err_and_holds_up_no_other(jobs, monkeypatch):
    for number in range(5):
        drop(jobs / "in" / f"mail-{number}", {"type": "mail", "n": number})
    with SkunkQueue("demo") as queue:
        put = queue.store.put

        def picky(envelopes):
            if any(b"\xa1n\x03" in envelope.body for envelope in envelopes):
                raise StoreRefused("the document is too odd")
            return put(envelopes)

        monkeypatch.setattr(queue.store, "put", picky)
        Feeder(jobs, queue).run(burst=True)

        assert len(runs(queue)) == 4
    assert names(jobs, "in") == names(jobs, "work") == []
    assert names(jobs, "err") == ["mail-3", "mail-3.error"]
    assert "too odd" in (jobs / "err" / "mail-3.error").read_text()
