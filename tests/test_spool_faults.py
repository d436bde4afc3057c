"""What could be lost or left behind in a spool folder: jobs under one name, and what a killed process leaves."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import pickle
import threading
import time

import pytest
from pools import until

from skunkqueue.envelope import Outcome, Want
from skunkqueue.ids import new_id, new_token
from skunkqueue.policy import Notes, decode_notes, encode_notes
from skunkqueue.spool import Hermes, drop
from skunkqueue.spool import work as work_module
from skunkqueue.spool.source import SpoolSource
from skunkqueue.spool.work import LEFT_FOR

# -- dropping under a name that is taken -------------------------------------------------------------------------------


def refuse_links(*args, **named):
    raise OSError(errno.EPERM, "this file system has no hard links")


@pytest.fixture(params=["with links", "without links"])
def jobs(request, tmp_path, monkeypatch):
    """A folder, on a file system with hard links and on one without."""
    if request.param == "without links":
        monkeypatch.setattr(os, "link", refuse_links)
    (tmp_path / "jobs" / "in").mkdir(parents=True)
    return tmp_path / "jobs"


def waiting(jobs):
    return sorted(pickle.loads(path.read_bytes())["to"] for path in (jobs / "in").iterdir())


def test_jobs_dropped_under_one_name_all_wait(jobs):
    path = jobs / "in" / "email"

    places = [drop(path, {"type": "mail", "to": n}) for n in range(25)]

    assert places[:3] == [str(path), f"{path}.1", f"{path}.2"] and len(set(places)) == 25
    assert waiting(jobs) == [*range(25)]


def test_jobs_dropped_under_one_name_at_once_all_wait(jobs):
    path = jobs / "in" / "email"
    ready = threading.Barrier(8)

    def send(first):
        ready.wait()
        for n in range(first, 80, 8):
            drop(path, {"type": "mail", "to": n})

    senders = [threading.Thread(target=send, args=(first,)) for first in range(8)]
    for each in senders:
        each.start()
    for each in senders:
        each.join()

    assert waiting(jobs) == [*range(80)]


def test_jobs_dropped_under_one_name_are_all_processed_while_they_come(jobs):
    seen = []
    log = io.StringIO()
    hermes = Hermes(jobs, threads=2, log=log)
    hermes.register({"mail": lambda job: seen.append(job["to"])})
    with hermes:
        for n in range(60):
            drop(jobs / "in" / "email", {"type": "mail", "to": n})
        until(lambda: len(seen) >= 60)

    assert sorted(seen) == [*range(60)]
    assert os.listdir(jobs / "err") == []


@pytest.mark.parametrize("kind", ["file", "folder", "link", "broken link"])
def test_nothing_that_lies_there_under_a_jobs_name_is_overwritten(jobs, kind):
    path = jobs / "in" / "email"
    if kind == "file":
        path.write_text("theirs")
    elif kind == "folder":
        path.mkdir()
        (path / "inner").write_text("theirs")
    else:
        (jobs / "other").write_text("theirs")
        path.symlink_to("../other" if kind == "link" else "../nowhere")
    looked = os.lstat(path)

    place = drop(path, {"type": "mail", "to": 1}) if kind != "folder" else None

    assert os.path.samestat(os.lstat(path), looked)
    assert place is None or place == f"{path}.1"


def test_a_job_that_cannot_be_dropped_leaves_nothing_behind(jobs, monkeypatch):
    def fail(*args, **named):
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(os, "link", fail)

    with pytest.raises(OSError, match="no room"):
        drop(jobs / "in" / "email", {"type": "mail"})

    assert os.listdir(jobs / "in") == []


# -- what a killed process leaves in work/ -----------------------------------------------------------------------------

LONG = "n" * 200
NOTES = encode_notes(Notes(starts=3))


class Killed(BaseException):
    """The end of a process at this very moment."""


def source_of(folder):
    return SpoolSource(folder, lambda *_: b"body", rescan=0.0, events=False)


def claimed(source, now):
    """Claim what there is, the folder listed anew."""
    source._room._list_at = 0.0
    return source.claim([Want("spool", ("spool",), "worker", new_token(), 10)], now=now, until=now + 15)


def put(folder, name, kind="ok"):
    path = folder / "in" / name
    path.write_text(json.dumps({"type": kind}))
    os.utime(path, (1, 1))


def life(source, now):
    """All that can become of a file: claimed, noted, extended, tried again, given back, done."""
    (claim,) = claimed(source, now)
    source.commit([(claim, Outcome.started(notes=NOTES))], now=now)
    source.extend([claim], until=now + 30)
    source.commit([(claim, Outcome.again(due=now + 1, notes=NOTES))], now=now)
    (claim,) = claimed(source, now + 2)
    source.commit([(claim, Outcome.again(due=now + 3, notes=encode_notes(Notes(starts=4))))], now=now + 2)
    (claim,) = claimed(source, now + 4)
    source.commit([(claim, Outcome.complete(None))], now=now + 4)


@contextlib.contextmanager
def killed_at(step, monkeypatch, after):
    """Killed before the step-th change of the file system in work/, or right after it."""
    left = [step]

    def changing(call):
        def changed(path, *args, **named):
            left[0] -= "/work/" in str(path) + str(args)
            if after or left[0]:
                call(path, *args, **named)
            if not left[0]:
                raise Killed

        return changed

    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        for name in ("rename", "unlink"):
            patch.setattr(os, name, changing(getattr(os, name)))
        yield left


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("name", ["short", LONG], ids=["a short name", "a long name"])
def test_whenever_a_process_is_killed_the_next_ones_leave_nothing_in_work(tmp_path, monkeypatch, name, after):
    steps = 0
    while True:
        steps += 1
        folder = tmp_path / str(steps)
        source = source_of(folder)
        put(folder, name)
        now = time.time()
        with killed_at(steps, monkeypatch, after) as left:
            life(source, now)
        if left[0] > 0:
            break  # there are no more steps

        other = source_of(folder)
        later = now + 2 * LEFT_FOR
        for claim in claimed(other, later):
            other.commit([(claim, Outcome.complete(None))], now=later)
        claimed(other, later + 1)

        assert os.listdir(folder / "work") == [] == os.listdir(folder / "in"), steps
        other.close()
        source.close()
    assert steps > (10 if name == LONG else 8)


def test_what_belongs_to_no_file_is_removed_once_it_is_old_and_nothing_else_is(tmp_path):
    source = source_of(tmp_path)
    now = time.time()
    ours = [f".{new_id(now)}.0123abcd", f".clock.{new_id(now)}", f".probe.{new_id(now)}"]
    theirs = [".nfs000123", ".keep", f".{new_id(now)}.tmp", "visible"]
    for name in (*ours, *theirs):
        (tmp_path / "work" / name).write_bytes(b"")

    claimed(source, now + LEFT_FOR - 5)
    young = os.listdir(tmp_path / "work")
    claimed(source, now + LEFT_FOR + 5)
    old = os.listdir(tmp_path / "work")
    source.close()

    assert sorted(young) == sorted((*ours, *theirs)) and sorted(old) == sorted(theirs)


def test_the_notes_of_a_file_that_waits_long_are_kept(tmp_path):
    source = source_of(tmp_path)
    put(tmp_path, LONG)
    now = time.time()
    (claim,) = claimed(source, now)
    source.commit([(claim, Outcome.again(due=now + 50 * LEFT_FOR, notes=NOTES))], now=now)

    for later in range(1, 50):
        claimed(source, now + later * LEFT_FOR)
    (again,) = claimed(source, now + 51 * LEFT_FOR)

    assert decode_notes(again.notes).starts == 3 and source.names[again.id] == LONG
    source.close()


def test_a_listing_that_misses_a_file_while_it_is_renamed_costs_no_notes(tmp_path, monkeypatch):
    source = source_of(tmp_path)
    put(tmp_path, LONG)
    now = time.time()
    (claim,) = claimed(source, now)
    source.commit([(claim, Outcome.started(notes=NOTES))], now=now)
    real, missed = os.listdir, []

    def missing(folder):
        found = real(folder)
        if len(missed) < work_module.LISTINGS and str(folder).endswith("work/"):
            missed.append(folder)
            return [name for name in found if name.startswith(".")]
        return found

    monkeypatch.setattr(os, "listdir", missing)
    source.extend([claim], until=now + 5 * LEFT_FOR)
    claimed(source, now + 2 * LEFT_FOR)

    assert len(missed) == work_module.LISTINGS
    assert len([name for name in real(tmp_path / "work") if name.startswith(".")]) == 1
    source.close()
