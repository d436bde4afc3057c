"""Files that worker processes read by themselves: all that is odd about one ends as if the pool had looked first."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import signal
import threading
import time
from collections import namedtuple

import msgpack
import pytest
import spool_tasks
from pools import until

from skunkqueue.clock import ticks
from skunkqueue.codec import Keys, default_keys, pickle_function
from skunkqueue.envelope import Outcome, Want
from skunkqueue.errors import BadSignature
from skunkqueue.job import Carried
from skunkqueue.spool import Hermes, roster
from skunkqueue.spool.processors import Processor
from skunkqueue.spool.reading import NOT_READ, Reading
from skunkqueue.spool.roster import Board, Roster
from skunkqueue.spool.source import SpoolSource
from skunkqueue.worker.child.execute import Told

DAY = 86400.0
Spool = namedtuple("Spool", "path log unread")


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    monkeypatch.setenv("MARKS", str(tmp_path))
    for name in ("in", "err", "work"):
        (tmp_path / "jobs" / name).mkdir(parents=True)
    return tmp_path / "jobs"


def put(jobs, name, data=None, /, *, raw=None, **more):
    """A file that was last written a day ago; given whole, or as the dictionary in it."""
    draft = jobs / "draft"
    draft.write_bytes(pickle.dumps({"name": name, **(data or {}), **more}) if raw is None else raw)
    os.utime(draft, (time.time() - DAY,) * 2)
    os.rename(draft, jobs / "in" / name)


def names(jobs, folder):
    return sorted(os.listdir(jobs / folder))


def marks(jobs, name):
    with contextlib.suppress(FileNotFoundError):
        return (jobs.parent / name).read_text().splitlines()
    return []


def until_empty(jobs):
    until(lambda: not names(jobs, "in") and not names(jobs, "work"))


def report(jobs, name):
    """What stands beside a file in err/, but when it was, and which run."""
    lines = (jobs / "err" / f"{name}.error").read_text().splitlines()
    return [line for line in lines if not line.startswith(("when: ", "run: "))]


def noting(hermes):
    """Have it note which files are handed out unread."""
    source, unread = hermes._source, []
    make = source._make_unread

    def noted(file, size, quiet):
        unread.append(file.split(".", 5)[5])
        return make(file, size, quiet)

    if make is not None:
        source._make_unread = noted
    return unread


@contextlib.contextmanager
def working(jobs, processors=spool_tasks.processors, **options):
    log = io.StringIO()
    hermes = Hermes(jobs, log=log, **{"workers": 1, **options})
    hermes.register(processors)
    hermes.log, hermes.unread = log.getvalue, noting(hermes)
    with hermes:
        yield hermes


# what goes well


@pytest.mark.parametrize("workers", [1, 2])
def test_processors_of_all_kinds_process_files_in_every_format(jobs, workers):
    put(jobs, "a", type="note")
    put(jobs, "b", type="later")
    put(jobs, "c", type="download", url="u")
    put(jobs, "d", raw=json.dumps({"type": "note", "name": "d"}).encode())
    put(jobs, "e", raw=msgpack.packb({"type": "note", "name": "e"}))
    put(jobs, "f", raw=pickle.dumps({"type": "note", "name": "f"}, 0))
    with working(jobs, workers=workers) as hermes:
        until_empty(jobs)

    assert sorted(hermes.unread) == list("abcdef") and names(jobs, "err") == []
    assert [len(marks(jobs, name)) for name in "abcdef"] == [1] * 6 and marks(jobs, "c") == ["1 u"]
    assert " finished in/a note in " in hermes.log() and " finished in/c download in " in hermes.log()


def test_the_log_shows_what_a_processor_returned(jobs):
    put(jobs, "a", type="say")
    with working(jobs, {"say": lambda data: "said " + data["name"]}) as hermes:
        until_empty(jobs)

    assert " finished in/a say in " in hermes.log() and ": 'said a'\n" in hermes.log()


def test_names_that_are_long_or_no_text_are_read_as_well(jobs):
    odd = os.fsdecode(b"no\xfftext. .x")
    put(jobs, "n" * 255, {"name": "long"}, type="note")
    put(jobs, odd, {"name": "odd"}, type="note")
    with working(jobs) as hermes:
        until_empty(jobs)

    assert len(hermes.unread) == 2 and marks(jobs, "long") and marks(jobs, "odd") and names(jobs, "err") == []


def test_a_fresh_file_is_read_by_the_pool(jobs):
    with working(jobs) as hermes:
        (jobs / "draft").write_bytes(pickle.dumps({"type": "note", "name": "m"}))
        os.utime(jobs / "draft", (time.time() + 60,) * 2)  # it stays fresh, however slow this machine is
        os.rename(jobs / "draft", jobs / "in" / "m")
        until(lambda: marks(jobs, "m"))

    assert hermes.unread == []


def test_threads_are_handed_nothing_unread(jobs):
    put(jobs, "a", type="note")
    with working(jobs, workers=0) as hermes:
        until_empty(jobs)

    assert hermes.unread == [] and marks(jobs, "a")


# registering


def test_a_processor_that_is_replaced_processes_the_next_file(jobs):
    with working(jobs) as hermes:
        put(jobs, "first", type="note")
        until(lambda: marks(jobs, "first"))
        hermes.register({"note": spool_tasks.Download})
        put(jobs, "second", type="note", url="x")
        until(lambda: marks(jobs, "second"))
        until_empty(jobs)

    assert marks(jobs, "second") == ["1 x"] and hermes.unread == ["first", "second"]


def test_a_type_may_be_registered_while_processes_work(jobs):
    with working(jobs) as hermes:
        put(jobs, "first", type="note")
        until(lambda: marks(jobs, "first"))
        hermes.register({"new": spool_tasks.note})
        put(jobs, "second", type="new")
        until(lambda: marks(jobs, "second"))

    assert hermes.unread == ["first", "second"]


def test_what_a_function_by_value_remembers_outlives_another_registration(jobs):
    seen = []

    def count(data):
        seen.append(data["name"])
        return len(seen)

    with working(jobs, {"count": count}) as hermes:
        put(jobs, "a", type="count")
        until_empty(jobs)
        hermes.register({"note": spool_tasks.note})
        put(jobs, "b", type="count")
        until_empty(jobs)

    assert hermes.log().rstrip().count("count in ") == 2 and ": 2\n" in hermes.log()


def test_a_processor_that_cannot_travel_keeps_no_other_from_its_files(jobs):
    lock = threading.Lock()
    put(jobs, "bad", type="stuck")
    put(jobs, "good", type="note")
    with working(jobs, {**spool_tasks.processors, "stuck": lambda data: lock}) as hermes:
        until(lambda: "bad.error" in names(jobs, "err") and marks(jobs, "good"))
        until_empty(jobs)

    assert "cannot be sent" in "\n".join(report(jobs, "bad")) and len(hermes.unread) == 2


# what is no job, or not yet


class Forbidden:
    def __reduce__(self):
        return os.getpid, ()


ODD = {
    "unknown": pickle.dumps({"type": "emial"}),
    "forbidden": pickle.dumps({"type": "note", "x": Forbidden()}),
    "torn": pickle.dumps({"type": "note", "name": "torn"})[:-5],
    "torn-json": b'{"type": "note", ',
    "empty": b"",
    "list": pickle.dumps([1]),
    "no-type": pickle.dumps({"name": "x"}),
    "surrogate": json.dumps({"type": "\ud800"}).encode(),
    "words": b"good morning",
}


def processed(jobs, **options):
    for name, data in ODD.items():
        put(jobs, name, raw=data)
    with working(jobs, **options) as hermes:
        until(lambda: len(names(jobs, "err")) == 2 * len(ODD))
        until_empty(jobs)
    return hermes


def test_what_is_no_job_is_kept_as_if_the_pool_had_read_it(jobs, tmp_path):
    hermes = processed(jobs)
    (tmp_path / "other").mkdir()
    other = processed(tmp_path / "other" / "jobs", workers=0) if _make(tmp_path / "other" / "jobs") else None

    assert sorted(hermes.unread) == sorted(ODD) and other is not None
    for name, data in ODD.items():
        assert (jobs / "err" / name).read_bytes() == data
        assert report(jobs, name) == report(tmp_path / "other" / "jobs", name), name
        assert "attempts: 0" in report(jobs, name)
    said = [line.split(" ", 2)[2] for line in hermes.log().splitlines() if "goes to err/" in line]
    assert sorted(said) == sorted(line.split(" ", 2)[2] for line in other.log().splitlines() if "to err/" in line)
    assert " finished " not in hermes.log() and " failed " not in hermes.log()


def _make(jobs):
    for name in ("in", "err", "work"):
        (jobs / name).mkdir(parents=True)
    return jobs


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_a_file_that_we_may_not_read_is_kept(jobs):
    put(jobs, "secret", type="note")
    os.chmod(jobs / "in" / "secret", 0)
    with working(jobs):
        until(lambda: "secret.error" in names(jobs, "err"))

    assert "attempts: 0" in report(jobs, "secret")


def test_a_file_that_somebody_still_writes_goes_back_until_it_is_done(jobs):
    put(jobs, "slow", raw=pickle.dumps({"type": "note", "name": "slow"})[:-5])
    with open(jobs / "in" / "slow", "ab") as writer:
        os.utime(jobs / "in" / "slow", (time.time() - DAY,) * 2)
        with working(jobs) as hermes:
            if not hermes._source.can_lease:
                pytest.skip("the file system does not tell who writes")
            until(lambda: "slow" in hermes.unread)
            until(lambda: names(jobs, "in") == ["slow"] and not names(jobs, "work"))
            assert names(jobs, "err") == [] and not marks(jobs, "slow")
            writer.write(pickle.dumps({"type": "note", "name": "slow"})[-5:])
            writer.close()
            until(lambda: marks(jobs, "slow"))
            until_empty(jobs)

    assert names(jobs, "err") == [] and len(marks(jobs, "slow")) == 1
    assert hermes.log().count(" finished ") == 1 and "retries" not in hermes.log()


# what fails


def test_a_job_that_fails_is_tried_again_and_kept_with_its_type_and_traceback(jobs):
    put(jobs, "x", type="fail")
    with working(jobs, retries=1) as hermes:
        until(lambda: names(jobs, "err") == ["x", "x.error"])

    text = "\n".join(report(jobs, "x"))
    assert 'type: "fail"' in text and "attempts: 2" in text and "ValueError: no such rcpt" in text
    assert 'raise ValueError("no such' in text and len(marks(jobs, "x")) == 2
    assert " retries in/x fail in " in hermes.log() and " failed in/x fail after " in hermes.log()


def test_a_job_that_takes_too_long_is_interrupted_and_known_by_its_type(jobs):
    put(jobs, "x", type="hang")
    with working(jobs, timeout=0.5) as hermes:
        until(lambda: names(jobs, "err") == ["x", "x.error"])

    assert 'type: "hang"' in report(jobs, "x") and "did not end within 0.5 s" in "\n".join(report(jobs, "x"))
    assert " failed in/x hang after " in hermes.log()


def test_a_worker_killed_while_it_processes_costs_only_that_file_an_attempt(jobs):
    put(jobs, "0", type="slow", seconds=0.0)
    for number in range(1, 30):
        put(jobs, f"{number:02}", {"name": "hit"} if number == 1 else {}, type="slow" if number == 1 else "note")
    with working(jobs) as hermes:
        until(lambda: marks(jobs, "hit"))
        hermes.register({"slow": spool_tasks.note})
        (worker,) = hermes._pool._engine._workers
        os.kill(worker.body.pid, signal.SIGKILL)
        until(lambda: len(marks(jobs, "hit")) == 2)
        until_empty(jobs)

    assert len(hermes.unread) == 30 and names(jobs, "err") == []
    assert [len(marks(jobs, f"{number:02}")) for number in range(2, 30)] == [1] * 28
    assert hermes.log().count(" retries ") == 1 and " retries in/01 slow " in hermes.log()
    assert "its worker died (SIGKILL)" in hermes.log()


def test_a_job_that_crashes_its_workers_ends_as_poison(jobs):
    put(jobs, "bad", type="crash")
    put(jobs, "good", type="note")
    with working(jobs) as hermes:
        until(lambda: "bad.error" in names(jobs, "err"))
        until_empty(jobs)

    assert "SIGSEGV" in "\n".join(report(jobs, "bad")) and 'type: "crash"' in report(jobs, "bad")
    assert len(marks(jobs, "bad")) == 3 and len(marks(jobs, "good")) == 1
    assert " retries in/bad crash " in hermes.log() and " failed in/bad crash " in hermes.log()


def test_a_gentle_stop_hands_unread_files_back_as_they_came(jobs):
    with working(jobs) as hermes:
        put(jobs, "runs", type="slow", seconds=1)
        until(lambda: marks(jobs, "runs"))
        for number in range(5):
            put(jobs, f"waits-{number}", {"name": "waits"}, type="note")
        hermes.stop()

    assert marks(jobs, "runs.end") and not marks(jobs, "waits")
    assert names(jobs, "in") == [f"waits-{number}" for number in range(5)] and names(jobs, "work") == []


# whose file it is


class Folder:
    """A spool, with a reader as worker processes have it."""

    def __init__(self, path):
        self.path = path
        self.board = Board(default_keys())
        self.source = SpoolSource(path, lambda content, run: b"", make_unread=lambda file, *_: os.fsencode(file))
        self.reading = Reading(self.board.fd)
        self.write(1, say=lambda data: data["name"])

    def write(self, version, **processors):
        codes = {type: pickle_function(Carried(Processor(target), type)) for type, target in processors.items()}
        self.board.write(Roster(version, os.fsencode(self.source.work), self.source.can_lease, codes))

    def claim(self, token="a" * 24, now=None, lease=15.0, **more):
        now = time.time() if now is None else now
        return self.source.claim([Want("spool", ("spool",), "worker", token, 10, **more)], now=now, until=now + lease)

    def read(self, claim, version=1):
        (size,) = {(self.path / "work" / file).stat().st_size for file in names(self.path, "work")} or {1}
        return self.reading(claim.envelope.body, size, True, version)


@pytest.fixture
def folder(jobs):
    made = Folder(jobs)
    yield made
    made.source.close()


def test_a_worker_reads_what_its_pool_has_claimed(folder):
    put(folder.path, "a", type="say")

    (claim,) = folder.claim()

    assert folder.read(claim) == Told("say", b"'a'")
    assert folder.source.commit([(claim, Outcome.complete(b"m\xa3say"))], now=time.time()) == {claim.id}
    assert names(folder.path, "work") == [] and folder.source.types == {claim.id: "say"}


def test_a_file_whose_lease_was_extended_is_found_under_its_new_name(folder):
    put(folder.path, "a", type="say")
    (claim,) = folder.claim()

    folder.source.extend([claim], until=time.time() + 60)

    assert os.fsdecode(claim.envelope.body) not in names(folder.path, "work")
    assert folder.read(claim) == Told("say", b"'a'")


def test_a_file_that_another_claim_has_by_now_is_not_read(folder, jobs):
    put(folder.path, "a", type="say")
    now = time.time()
    (claim,) = folder.claim(now=now)
    other = SpoolSource(jobs, lambda content, run: b"")
    want = Want("spool", ("spool",), "other", "b" * 24, 1)

    (theirs,) = other.claim([want], now=now + 16, until=now + 31)

    assert theirs.id == claim.id and folder.read(claim) == Told([], b"")
    assert folder.source.commit([(claim, Outcome.complete(NOT_READ))], now=now + 16) == set()
    assert folder.source.commit([(claim, Outcome.complete(b"m\xa3say"))], now=now + 16) == set()
    assert other.commit([(theirs, Outcome.complete(None))], now=now + 16) == {claim.id}
    assert names(folder.path, "err") == names(folder.path, "in") == []
    other.close()


def test_a_file_that_was_left_to_the_pool_is_handed_out_with_its_content(folder):
    put(folder.path, "a", type="say")
    (claim,) = folder.claim()

    taken = folder.source.commit([(claim, Outcome.complete(NOT_READ))], now=time.time())
    (again,) = folder.claim(token="b" * 24)

    assert taken == {claim.id} and again.id == claim.id and again.envelope.body == b"" and again.lapses == 0
    assert folder.source.data_of(again.id) == {"type": "say", "name": "a"}


def test_a_repeated_claim_gives_unread_files_once_more(folder):
    put(folder.path, "a", type="say")
    (first,) = folder.claim()

    (second,) = folder.claim(repeated=True)

    assert (second.id, second.envelope.body) == (first.id, first.envelope.body)
    assert folder.read(second) == Told("say", b"'a'")


# the roster


def test_a_reader_asks_for_the_roster_anew_only_when_it_is_told_of_a_newer_one(folder):
    put(folder.path, "a", type="say")
    (claim,) = folder.claim()
    assert folder.read(claim).text == b"'a'"

    folder.write(2, say=lambda data: "new " + data["name"])

    assert folder.read(claim).text == b"'a'" and folder.read(claim, version=2).text == b"'new a'"


def test_a_roster_that_nobody_trusted_signed_is_not_read(folder, monkeypatch):
    put(folder.path, "a", type="say")
    (claim,) = folder.claim()
    monkeypatch.setattr(roster, "PAUSE", 0.0)

    Board.write(_Signing(folder.board.fd, Keys(b"stranger")), Roster(1, b"", False, {}))

    with pytest.raises(BadSignature):
        roster.read(folder.board.fd, 1)
    assert folder.read(claim) == Told([], b"")


class _Signing:
    def __init__(self, fd, keys):
        self.fd, self._keys = fd, keys


def test_a_version_that_does_not_come_is_waited_for_a_moment_only(folder, monkeypatch):
    monkeypatch.setattr(roster, "PAUSE", 0.001)
    began = ticks()

    with pytest.raises(BadSignature, match="version 9"):
        roster.read(folder.board.fd, 9)

    assert ticks() - began < 30
