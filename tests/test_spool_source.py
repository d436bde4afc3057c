"""The spool folder as a source: what a claim, a lease and a commit mean there, and each oddity a folder can hold."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from contextlib import ExitStack

import pytest
from pools import until

from skunkqueue.envelope import Outcome, Seal, Want, pack_body, pack_head
from skunkqueue.errors import StoreAway, WrongCall
from skunkqueue.ids import new_token
from skunkqueue.persistence import WorkKey
from skunkqueue.policy import Notes, decode_notes, encode_notes
from skunkqueue.spool import drop, retry
from skunkqueue.spool.files import Unreadable, is_awaited
from skunkqueue.spool.source import SpoolSource

NOTES = encode_notes(Notes(starts=2, failures=1))


class Folder:
    """A spool folder and ways to look at it."""

    def __init__(self, path):
        self.path = path
        self.sources = []

    def source(self, **options):
        def make(content, run):
            if content.type == "unknown":
                raise Unreadable("nobody wants it")
            return pack_body(pack_head(content.type, "", Seal()), b"", b"m")

        self.sources.append(SpoolSource(self.path, make, **{"moment": 0.2, **options}))
        return self.sources[-1]

    def put(self, name="email", data=None, folder="in"):
        path = self.path / folder / name
        draft = self.path / ".draft"
        draft.write_bytes(pickle.dumps({"type": "email", "name": name}) if data is None else data)
        draft.rename(path)
        return path

    def names(self, folder):
        return sorted(os.listdir(self.path / folder))

    def report(self, name):
        return (self.path / "err" / f"{name}.error").read_text()


@pytest.fixture
def folder(tmp_path):
    made = Folder(tmp_path / "jobs")
    made.source()
    yield made
    for source in made.sources:
        source.close()


@pytest.fixture
def source(folder):
    return folder.sources[0]


def claim(source, now, limit=1, token=None, lease=15.0, repeated=False):
    want = Want("spool", ("spool",), "worker", token or new_token(), limit, repeated)
    return source.claim([want], now=now, until=now + lease)


def soon(source, limit=10):
    """Claim until something comes."""
    return until(lambda: claim(source, time.time(), limit))


def nothing_for(source, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert claim(source, time.time(), 10) == []
        time.sleep(0.02)


# the path of a job


def test_a_claim_takes_the_file_and_a_commit_removes_it(folder, source):
    folder.put()

    (taken,) = claim(source, 100.0)

    assert folder.names("in") == [] and len(folder.names("work")) == 1
    assert source.data_of(taken.id) == {"type": "email", "name": "email"}
    assert source.commit([(taken, Outcome.complete(b""))], now=101.0) == {taken.id}
    assert folder.names("work") == [] and folder.names("err") == []


def test_a_claim_takes_no_more_than_wanted_and_the_oldest_first(folder, source):
    for number in (3, 1, 2):
        os.utime(folder.put(f"job-{number}"), (1000 + number, 1000 + number))

    first = claim(source, 2000.0, 2)
    second = claim(source, 2000.0, 2)

    assert [source.names[c.id] for c in first + second] == ["job-1", "job-2", "job-3"]
    assert [c.id for c in first + second] == sorted(c.id for c in first + second)


def test_a_file_is_claimed_by_one_source_only(folder, source):
    folder.put()
    other = folder.source()

    assert len(claim(source, 100.0) + claim(other, 100.0) + claim(source, 100.0)) == 1


def test_a_new_file_of_the_same_name_never_meets_the_old_one(folder, source):
    ids = set()
    for number in range(5):
        folder.put("email", pickle.dumps({"type": "email", "number": number}))
        (taken,) = soon(source)
        ids.add(taken.id)
        assert source.data_of(taken.id)["number"] == number

    assert len(ids) == len(folder.names("work")) == 5


def test_a_lapsed_claim_goes_to_another_with_its_id_and_one_more_lapse(folder, source):
    folder.put()
    (lost,) = claim(source, 100.0, lease=5)
    other = folder.source()

    assert claim(other, 104.9) == []
    other._room._list_at = 0.0
    (again,) = claim(other, 105.1)

    assert (again.id, again.lapses, lost.lapses) == (lost.id, 1, 0)
    assert other.data_of(again.id)["name"] == "email"


def test_who_lost_its_claim_can_neither_extend_nor_commit(folder, source):
    folder.put()
    (lost,) = claim(source, 100.0, lease=5)
    (again,) = claim(folder.source(), 106.0)

    assert source.extend([lost], until=200.0) == set()
    for outcome in (
        Outcome.complete(b""),
        Outcome.failed("no"),
        Outcome.again(),
        Outcome.untouched(),
        Outcome.started(),
    ):
        assert source.commit([(lost, outcome)], now=107.0) == set()
    assert folder.names("in") == folder.names("err") == []
    assert folder.sources[1].commit([(again, Outcome.complete(b""))], now=107.0) == {again.id}


def test_a_lease_that_ended_but_was_not_taken_still_commits(folder, source):
    folder.put()
    (late,) = claim(source, 100.0, lease=5)

    assert source.extend([late], until=300.0) == {late.id}
    assert claim(folder.source(), 200.0) == []
    assert source.commit([(late, Outcome.complete(b""))], now=400.0) == {late.id}


def test_extending_never_shortens(folder, source):
    folder.put()
    (taken,) = claim(source, 100.0, lease=50)

    assert source.extend([taken], until=110.0) == {taken.id}
    assert claim(folder.source(), 140.0) == []


def test_another_handle_of_the_folder_may_commit_what_this_one_claimed(folder, source):
    folder.put()
    (taken,) = claim(source, 100.0)
    other = folder.source()

    assert other.extend([taken], until=200.0) == {taken.id}
    assert other.commit([(taken, Outcome.complete(b""))], now=101.0) == {taken.id}
    assert folder.names("work") == []


def test_a_repeated_want_gets_what_its_token_holds(folder, source):
    folder.put("one"), folder.put("two")
    first = claim(source, 100.0, 1, token="t")

    again = claim(source, 101.0, 2, token="t", repeated=True)

    assert len(first) == 1 and again[0].id == first[0].id and len(again) == 2


def test_again_waits_until_it_is_due_and_keeps_its_notes_and_its_id(folder, source):
    folder.put()
    (taken,) = claim(source, 100.0)

    assert source.commit([(taken, Outcome.again(due=160.0, notes=NOTES))], now=101.0) == {taken.id}

    other = folder.source()
    assert claim(source, 159.0) == claim(other, 159.0) == []
    (again,) = claim(other, 160.5)
    assert (again.id, again.lapses, again.notes) == (taken.id, 0, NOTES)
    assert other.commit([(again, Outcome.complete(b""))], now=161.0) == {taken.id}
    assert folder.names("work") == []


def test_what_was_not_touched_is_back_in_its_place(folder, source):
    path = folder.put()
    before = path.stat()
    (taken,) = claim(source, 100.0)

    assert source.commit([(taken, Outcome.untouched())], now=101.0) == {taken.id}

    assert folder.names("in") == ["email"] and folder.names("work") == []
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert len(claim(source, 102.0)) == 1


def test_what_was_not_touched_waits_where_a_new_file_has_its_name(folder, source):
    folder.put("email", pickle.dumps({"type": "email", "n": 1}))
    (taken,) = claim(source, 100.0)
    folder.put("email", pickle.dumps({"type": "email", "n": 2}))

    assert source.commit([(taken, Outcome.untouched())], now=101.0) == {taken.id}

    both = []
    until(lambda: both.extend(claim(source, 102.0, 2)) or len(both) > 1)
    assert {source.data_of(c.id)["n"] for c in both} == {1, 2}
    assert taken.id in {c.id for c in both}


def test_what_has_notes_or_a_lapse_keeps_them_when_it_is_handed_back(folder, source):
    folder.put()
    (taken,) = claim(source, 100.0)

    assert source.commit([(taken, Outcome.untouched(notes=NOTES))], now=101.0) == {taken.id}

    assert folder.names("in") == []
    (again,) = claim(source, 102.0)
    assert (again.id, again.notes) == (taken.id, NOTES)


def test_a_mark_survives_the_death_of_its_holder(folder, source):
    folder.put()
    (taken,) = claim(source, 100.0, lease=5)

    assert source.commit([(taken, Outcome.started(notes=NOTES))], now=101.0) == {taken.id}

    (again,) = claim(folder.source(), 106.0)
    assert (again.id, again.lapses, again.notes) == (taken.id, 1, NOTES)


def test_progress_says_whether_the_claim_is_held(folder, source):
    folder.put()
    (taken,) = claim(source, 100.0, lease=5)

    assert source.commit([(taken, Outcome.at(0.5, "half"))], now=101.0) == {taken.id}
    claim(folder.source(), 106.0)
    assert source.commit([(taken, Outcome.at(0.6))], now=107.0) == set()


@pytest.mark.parametrize("size", [150, 151, 200, 255])
@pytest.mark.parametrize("letter", ["a", "ž", "\udcff"])
def test_names_of_any_length_survive_everything(folder, source, size, letter):
    name = (
        ("x" + letter * 300)
        .encode("utf-8", "surrogateescape")[:size]
        .decode("utf-8", "ignore" if letter == "ž" else "surrogateescape")
    )
    folder.put(name)
    (taken,) = claim(source, 100.0, lease=5)
    (lapsed,) = claim(folder.source(), 106.0, lease=5)
    other = folder.sources[-1]
    assert other.names[lapsed.id] == name
    other.commit([(lapsed, Outcome.again(due=110.0, notes=NOTES))], now=107.0)
    (third,) = claim(other, 111.0)
    assert (third.id, third.notes) == (taken.id, NOTES)

    assert other.commit([(third, Outcome.failed("no", notes=NOTES))], now=112.0) == {taken.id}

    assert folder.names("work") == []
    (kept,) = [n for n in folder.names("err") if not n.endswith(".error")]
    assert kept == name
    assert retry(folder.path / "err" / kept) == str(folder.path / "in" / name)
    assert folder.names("err") == []


def test_the_clock_is_that_of_the_file_system(source):
    assert abs(source.offset()) < 1.0
    assert not [name for name in os.listdir(source._room.folder) if name.startswith(".")]


def test_waiting_ends_with_an_event_and_with_its_timeout(folder, source):
    source.wait([WorkKey("spool", "spool")], 0.01)
    threading.Timer(0.1, folder.put).start()

    began = time.monotonic()
    source.wait([WorkKey("spool", "spool")], 30)

    assert time.monotonic() - began < 20
    assert len(soon(source)) == 1


def test_without_events_the_folder_is_looked_at(folder):
    source = folder.source(events=False)
    claim(source, time.time())
    folder.put()

    began = time.monotonic()
    while not claim(source, time.time()):
        source.wait([WorkKey("spool", "spool")], 30)
    assert time.monotonic() - began < 20


def test_a_folder_that_takes_its_place_is_watched(folder, source):
    source.wait([WorkKey("spool", "spool")], 0.01)
    os.rename(folder.path / "in", folder.path / "gone")
    with pytest.raises(StoreAway):
        source._inbox.news = True
        claim(source, time.time())
    os.mkdir(folder.path / "in")
    folder.put()

    assert len(soon(source)) == 1


# err/


def test_what_failed_is_kept_with_a_report(folder, source):
    data = pickle.dumps({"type": "email"})
    folder.put("email", data)
    (taken,) = claim(source, 100.0)
    import msgpack

    details = b"m" + msgpack.packb({"type": "KeyError", "message": "x", "traceback": "Traceback: here"})

    source.commit([(taken, Outcome.failed("KeyError: x", value=details, notes=NOTES))], now=101.0)

    assert (folder.path / "err" / "email").read_bytes() == data
    report = folder.report("email")
    assert 'file: "email"' in report and "why: KeyError: x" in report and "attempts: 2" in report
    assert "when: 20" in report and "Traceback: here" in report and taken.id in report and '"email"' in report


def test_nothing_in_err_is_ever_overwritten(folder, source):
    for number in range(25):
        folder.put("email", pickle.dumps({"type": "email", "n": number}))
        (taken,) = soon(source)
        source.commit([(taken, Outcome.failed("no"))], now=101.0)

    kept = [n for n in folder.names("err") if not n.endswith(".error")]
    assert len(kept) == 25 and {"email", "email.1", "email.9"} < set(kept)
    assert {pickle.loads((folder.path / "err" / n).read_bytes())["n"] for n in kept} == set(range(25))
    assert all(f"{n}.error" in folder.names("err") for n in kept)


def test_a_job_named_like_a_report_gets_a_report_of_its_own(folder, source):
    for name in ("email.error", "email", "email"):
        folder.put(name)
        (taken,) = soon(source)
        source.commit([(taken, Outcome.failed("no"))], now=101.0)

    assert folder.names("err") == sorted(
        ["email.error", "email.error.error", "email.1", "email.1.error", "email.2", "email.2.error"]
    )
    retry(folder.path / "err" / "email.error")
    assert folder.names("in") == ["email.error"]


def test_a_retry_puts_it_back_under_the_name_it_came_with(folder, source):
    for _ in range(2):
        folder.put()
        (taken,) = soon(source)
        source.commit([(taken, Outcome.failed("no"))], now=101.0)

    assert retry(folder.path / "err" / "email.1.error") == str(folder.path / "in" / "email")
    with pytest.raises(WrongCall, match="waiting already"):
        retry(folder.path / "err" / "email")
    assert len(soon(source)) == 1
    retry(folder.path / "err" / "email")
    assert folder.names("err") == []
    with pytest.raises(WrongCall, match="there is no"):
        retry(folder.path / "err" / "email")
    with pytest.raises(WrongCall, match="not in the err/"):
        retry(folder.path / "in" / "email")


def test_a_type_that_nobody_processes_goes_to_err_at_once(folder, source):
    folder.put("x", pickle.dumps({"type": "unknown"}))

    assert claim(source, 100.0) == []

    assert folder.names("err") == ["x", "x.error"] and "nobody wants it" in folder.report("x")


# files that are not done


@pytest.mark.parametrize("name", [".email", "email.tmp", "email.part", ".email.swp"])
def test_names_that_say_so_are_left_alone(folder, source, name):
    folder.put(name)

    nothing_for(source, 0.5)
    assert folder.names("in") == [name]
    os.rename(folder.path / "in" / name, folder.path / "in" / "email")
    assert len(soon(source)) == 1


def test_a_file_open_for_writing_is_left_until_it_is_closed(folder, source):
    with open(folder.path / "in" / "email", "wb") as file:
        pickle.dump({"type": "email"}, file)
        file.flush()
        os.utime(file.fileno(), (1000, 1000))

        nothing_for(source, 0.7)
        assert folder.names("in") == ["email"]

    assert len(soon(source)) == 1


def test_a_file_that_is_read_by_somebody_is_taken(folder, source):
    with open(folder.put(), "rb"):
        assert len(claim(source, time.time())) == 1


def test_where_the_system_cannot_tell_quiet_time_does(folder):
    source = folder.source(moment=0.3)
    source._looker.can_lease = False
    path = folder.path / "in" / "email"
    data = pickle.dumps({"type": "email", "body": "x" * 1000})
    with open(path, "wb") as file:
        for at in range(0, len(data), 100):
            file.write(data[at : at + 100])
            file.flush()
            os.utime(path)
            assert claim(source, time.time()) == []
            time.sleep(0.02)

        assert len(soon(source)) == 1  # its writer has it open still, which only a lease would tell


@pytest.mark.parametrize(("answers", "found"), [([False, False, True], True), ([None], False), ([False] * 99, False)])
def test_a_probe_that_somebody_has_open_for_a_moment_is_tried_again(folder, monkeypatch, answers, found):
    """A fork copies what is open for writing, until it becomes another program: that says nothing of the system."""
    monkeypatch.setattr("skunkqueue.spool.files.lease", lambda fd: answers.pop(0))
    monkeypatch.setattr("skunkqueue.spool.files.PROBE_PAUSE", 0.0)

    assert folder.source().can_lease is found


def test_a_pickle_that_breaks_off_waits_a_moment_and_may_still_be_completed(folder, source):
    data = pickle.dumps({"type": "email", "body": "x" * 100})
    path = folder.put("email", data[:50])
    os.utime(path)
    assert claim(source, path.stat().st_mtime) == []

    with open(path, "ab") as file:
        file.write(data[50:])

    assert len(soon(source)) == 1


@pytest.mark.parametrize("data", [b"", pickle.dumps({"type": "x"})[:10], b'{"type": "x"', b"hello"])
def test_what_stays_unfinished_is_an_error_after_a_moment(folder, source, data):
    path = folder.put("x", data)
    os.utime(path)
    assert claim(source, path.stat().st_mtime) == []
    assert folder.names("in") == ["x"]

    until(lambda: claim(source, time.time()) == [] and "x" in folder.names("err"))

    assert folder.names("in") == folder.names("work") == []
    assert (folder.path / "err" / "x").read_bytes() == data


def test_a_time_stamp_in_the_future_holds_nothing_up_for_long(folder, source):
    path = folder.put("x", b"")
    os.utime(path, (time.time() + 10**6,) * 2)

    until(lambda: claim(source, time.time()) == [] and "x" in folder.names("err"))


REWRITES = """
import pickle, sys
with open(sys.argv[1], "r+b") as file:
    pickle.dump({"type": "email", "n": 2}, file)
"""


def test_a_writer_that_comes_while_we_look_gets_its_file_back(folder, source, monkeypatch):
    """It opens the file after we saw it whole and before we took it: what it writes must not be lost."""
    path = folder.put("email", pickle.dumps({"type": "email", "n": 1}))
    looker = source._looker
    real = looker.was_replaced

    with ExitStack() as writers:
        found = []

        def meanwhile(fd, seen, taken):
            if not found:
                # The kernel lets it wait until our lease ends; it has found the file by its name already.
                writers.enter_context(subprocess.Popen([sys.executable, "-c", REWRITES, taken]))
                until(lambda: is_awaited(fd))
            found.append(real(fd, seen, taken))
            return found[-1]

        monkeypatch.setattr(looker, "was_replaced", meanwhile)
        monkeypatch.setattr(looker, "_aged", 60.0)  # an older file needs no lease, and this machine may stall
        assert source.can_lease

        # It is looked at again in the same claim, and taken then if the writer was as fast as that.
        (taken,) = claim(source, time.time()) or soon(source)

    assert found[0], "the file was taken beside its writer"
    assert source.data_of(taken.id)["n"] == 2
    assert folder.names("in") == [] and not path.exists()


def test_a_file_replaced_while_we_look_is_looked_at_anew(folder, source, monkeypatch):
    folder.put("email", pickle.dumps({"type": "email", "n": 1}))
    real = source._seize
    others = []

    def meanwhile(*args):
        if not others:
            others.append(folder.put("email", pickle.dumps({"type": "email", "n": 2})))
        return real(*args)

    monkeypatch.setattr(source, "_seize", meanwhile)

    (taken,) = soon(source)

    assert source.data_of(taken.id)["n"] == 2
    assert folder.names("in") == [] and len(folder.names("work")) == 1


# things that are no plain files


def test_folders_are_left_alone_and_told_of_once(folder):
    lines = []
    source = folder.source(say=lines.append)
    (folder.path / "in" / "sub").mkdir()
    folder.put()

    assert len(claim(source, 100.0)) == 1
    nothing_for(source, 0.2)

    assert folder.names("in") == ["sub"] and lines == ["in/sub is a folder: left alone"]


def test_links_pipes_and_sockets_go_to_err_unopened(folder, source, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(pickle.dumps({"type": "email"}))
    inside = folder.path / "in"
    (inside / "link").symlink_to(secret)
    (inside / "dangling").symlink_to("nowhere")
    os.mkfifo(inside / "pipe")
    with socket.socket(socket.AF_UNIX) as sock, contextlib.chdir(inside):
        sock.bind("socket")

    assert claim(source, 100.0, 10) == []

    names = ["dangling", "link", "pipe", "socket"]
    assert folder.names("err") == sorted([*names, *(f"{n}.error" for n in names)])
    assert folder.names("in") == [] and secret.exists()
    assert stat.S_ISFIFO((folder.path / "err" / "pipe").stat().st_mode)
    assert "symbolic link" in folder.report("link") and "named pipe" in folder.report("pipe")


def test_files_above_the_limit_go_to_err_unread(folder):
    source = folder.source(max_size=1000)
    folder.put("fits", pickle.dumps({"type": "email", "x": "y" * 900}))
    folder.put("large", pickle.dumps({"type": "email", "x": "y" * 1000}))

    assert len(claim(source, 100.0, 10)) == 1

    assert folder.names("err") == ["large", "large.error"] and "max_size" in folder.report("large")


def test_files_that_vanish_are_nothing(folder, source):
    for number in range(10):
        folder.put(f"job-{number}")
    assert len(claim(source, 100.0, 1)) == 1
    for name in folder.names("in"):
        os.unlink(folder.path / "in" / name)

    assert claim(source, 100.0, 10) == []
    assert folder.names("err") == []


NOBODY = """
import os, time
from decimal import Decimal
from skunkqueue.spool.source import SpoolSource
from skunkqueue.envelope import Want
from skunkqueue.ids import new_token
os.setgroups([]); os.setgid(65534); os.setuid(65534)  # after the imports, which it may have no right to
source = SpoolSource({folder!r}, lambda *_: b"", moment=0.2)
end = time.monotonic() + 20
seen = []
while time.monotonic() < end and not (seen or os.listdir({folder!r} + "/err")):
    now = time.time()
    claims = source.claim([Want("q", ("r",), "w", new_token(), 10)], now=now, until=now + 15)
    seen += [source.names[c.id] for c in claims]
    time.sleep(0.02)
print(sorted(seen))
"""


def as_nobody(folder, mode=0o777):
    """What a user without rights of its own claims first."""
    if os.getuid() != 0:
        pytest.skip("only root can be another user")
    for path in [folder.path, *folder.path.parents]:
        if path.stat().st_mode & 0o011 != 0o011:
            path.chmod(path.stat().st_mode | 0o011)
    for name in ("in", "err", "work"):
        (folder.path / name).chmod(mode if name == "in" else 0o777)
    code = NOBODY.format(folder=str(folder.path))
    return subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=60, check=True
    ).stdout


def test_unreadable_files_go_to_err_after_a_moment(folder):
    folder.put("secret").chmod(0o600)

    assert as_nobody(folder) == "[]\n"

    assert folder.names("err") == ["secret", "secret.error"] and "Permission denied" in folder.report("secret")


def test_files_of_somebody_else_are_taken_after_a_quiet_moment(folder):
    folder.put("email").chmod(0o644)

    assert as_nobody(folder) == "['email']\n"


def test_a_file_that_may_not_be_moved_holds_up_no_other(folder):
    folder.put("stays").chmod(0o644)
    os.utime(folder.path / "in" / "stays", (1000, 1000))
    os.chown(folder.put("goes"), 65534 if os.getuid() == 0 else -1, -1)

    assert as_nobody(folder, 0o1777) == "['goes']\n"  # sticky: only owners may move their files

    assert folder.names("in") == ["stays"]


@pytest.mark.slow
def test_a_hundred_thousand_files_at_once_are_claimed_in_pieces(folder, source):
    data = pickle.dumps({"type": "email"})
    path = folder.put("first", data)
    for number in range(99_999):
        os.link(path, folder.path / "in" / f"job-{number}") if number % 60_000 else folder.put(f"job-{number}", data)
        if number % 60_000 == 0:
            path = folder.path / "in" / f"job-{number}"
    began = time.monotonic()

    first = claim(source, time.time(), 4)
    first_took = time.monotonic() - began
    seen = {c.id for c in first}
    source.commit([(c, Outcome.complete(b"")) for c in first], now=time.time())
    listed = source._inbox._names
    assert len(listed) <= 2000
    while claims := claim(source, time.time(), 512):
        seen |= {c.id for c in claims}
        source.commit([(c, Outcome.complete(b"")) for c in claims], now=time.time())

    assert len(seen) == 100_000 and folder.names("in") == folder.names("work") == []
    assert first_took < 5  # of pieces; listing all of it takes as long on a slow machine only


def test_a_claim_takes_no_more_bytes_than_a_process_can_hold(folder, monkeypatch):
    monkeypatch.setattr("skunkqueue.spool.source.MOST_HELD", 5000)
    source = folder.source()
    for number in range(10):
        folder.put(f"job-{number}", pickle.dumps({"type": "email", "x": "y" * 2000}))

    first = claim(source, 100.0, 10)
    assert len(first) == 3
    source.commit([(c, Outcome.complete(b"")) for c in first], now=101.0)
    assert len(claim(source, 102.0, 10)) == 3


# the folder


def test_what_is_missing_of_the_folder_is_made_with_a_line(tmp_path):
    lines = []

    SpoolSource(tmp_path / "a" / "b", lambda *_: b"", say=lines.append).close()

    assert sorted(os.listdir(tmp_path / "a" / "b")) == ["err", "in", "work"]
    assert [line.rpartition("/")[2] for line in lines] == ["b", "in", "err", "work"]


def test_a_file_in_the_place_of_the_folder_is_a_wrong_call(tmp_path):
    (tmp_path / "jobs").write_text("x")

    with pytest.raises(WrongCall, match="cannot be a spool folder"):
        SpoolSource(tmp_path / "jobs", lambda *_: b"")


# dropping


def test_a_dropped_job_is_claimed(folder, source):
    path = drop(folder.path, {"type": "e mail/x", "n": 1})

    assert os.path.dirname(path) == str(folder.path / "in") and os.path.basename(path).startswith("e-mail-x-")
    (taken,) = claim(source, time.time())
    assert source.data_of(taken.id) == {"type": "e mail/x", "n": 1}


def test_a_job_may_be_dropped_under_a_name(folder, source):
    assert drop(folder.path / "in" / "email", {"type": "email"}) == str(folder.path / "in" / "email")
    assert os.path.dirname(drop(folder.path / "in", {"type": "email"})) == str(folder.path / "in")

    assert len(claim(source, time.time(), 10)) == 2
    with pytest.raises(WrongCall, match="not done"):
        drop(folder.path / "in" / ".email", {"type": "email"})


@pytest.mark.parametrize("job", [{}, {"type": 5}, ["type"], {"type": "x", "f": open}, {"type": "x", "f": lambda: 0}])
def test_what_could_not_be_read_again_is_not_dropped(folder, job):
    with pytest.raises(WrongCall):
        drop(folder.path, job)

    assert folder.names("in") == []


# many processes


CLAIMER = """
import sys, time, json
from skunkqueue.spool.source import SpoolSource
from skunkqueue.envelope import Outcome, Want
from skunkqueue.ids import new_token
source = SpoolSource({folder!r}, lambda *_: b"")
print("up", flush=True)
sys.stdin.readline()
done = []
quiet = 0
while quiet < 3:
    now = time.time()
    claims = source.claim([Want("q", ("r",), "w", new_token(), 16)], now=now, until=now + 60)
    done += [source.data_of(c.id)["n"] for c in claims]
    assert len(source.commit([(c, Outcome.complete(b"")) for c in claims], now=now)) == len(claims)
    if claims:
        quiet = 0
    else:
        quiet += 1
        time.sleep(0.02)
print(json.dumps(done))
"""


def test_of_many_processes_each_file_is_claimed_by_one(folder):
    for number in range(3000):
        folder.put(f"job-{number}", pickle.dumps({"type": "email", "n": number}))
    claimers = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIMER.format(folder=str(folder.path))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for claimer in claimers:
        assert claimer.stdout.readline() == "up\n"
    for claimer in claimers:
        claimer.stdin.write("go\n")
        claimer.stdin.flush()

    done = [n for claimer in claimers for n in json.loads(claimer.communicate(timeout=60)[0])]

    assert sorted(done) == list(range(3000))
    assert folder.names("in") == folder.names("work") == folder.names("err") == []


def test_the_signal_of_a_broken_lease_kills_nobody(folder, source):
    """The kernel sends one when a writer opens what we look at; SIGIO, the usual one, would end the process."""
    path = folder.put()
    from skunkqueue.spool.files import OPEN, lease

    fd = os.open(path, OPEN)
    assert lease(fd) is True
    writer = subprocess.Popen([sys.executable, "-c", f"open({str(path)!r}, 'ab').close()"])
    time.sleep(0.5)
    assert writer.poll() is None  # it waits for us
    os.close(fd)

    assert writer.wait(30) == 0
    assert signal.getsignal(signal.SIGIO) == signal.SIG_DFL


def test_notes_are_those_of_the_judge():
    assert decode_notes(NOTES).starts == 2
