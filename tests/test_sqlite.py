"""What only the SQLite store promises: many processes on one file, wake-up, its plans, and troubles of a disk."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from skunkqueue.envelope import FINDABLE, Claim, Envelope, Filter, Outcome, State, Want
from skunkqueue.errors import StoreAway, StoreError, StoreRefused, StoreVersion, WrongCall
from skunkqueue.persistence import RunKey, WorkerKey, WorkKey, sqlite
from skunkqueue.persistence.sqlite import SQLitePersister, open_url
from skunkqueue.persistence.sqlite import file as sqlite_file
from skunkqueue.persistence.sqlite import notify as sqlite_notify
from skunkqueue.persistence.url import get_backend, locate
from skunkqueue.routes import address
from skunkqueue.testing import StoreContract
from skunkqueue.testing.makers import LATE, LEASE, NOW, sealed, take, take_one, want

SOON = 30.0
"""Seconds that a loaded machine may take; nothing waits for them to pass."""


class _Store(SQLitePersister):
    """Another process, wherever there is one, uses ``SQLitePersister``; this only adds what the tests look at."""

    def rows(self, question: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._file.reading() as db:
            return db.execute(question, values).fetchall()

    def plan(self, statement: str, *values: Any) -> str:
        return "\n".join(row[3] for row in self.rows(f"EXPLAIN QUERY PLAN {statement}", *values))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[_Store]:
    opened = _Store(str(tmp_path / "runs.db"))
    yield opened
    opened.close()


class TestSQLite(StoreContract):
    """Every promise again, with a look at what is left in the file."""

    def open_again(self, store: Any) -> SQLitePersister:
        return SQLitePersister(store.path)

    def left_behind(self, store: Any) -> list[str]:
        tables = ("lane", "run", "long", "taken", "expiring", "worker", "told")
        return [table for table in tables if store.rows(f"SELECT 1 FROM {table}")]


# -- where it is -----------------------------------------------------------------------------------------------------


def test_with_nothing_given_it_is_one_file_in_the_data_folder_of_the_user(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "not" / "made" / "yet"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    store = get_backend(**sqlite.default_cfg)
    store.put([sealed()])
    store.close()

    assert isinstance(store, SQLitePersister)
    assert Path(store.path).is_file()
    assert Path(store.path).is_relative_to(tmp_path)
    assert locate(**sqlite.default_cfg) == locate(None, None, None) == ("sqlite", "sqlite://")
    assert open_url(store.url).path == store.path


def test_a_url_names_a_relative_or_an_absolute_file(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert open_url("sqlite:///some%20runs.db").path == str(tmp_path / "some runs.db")
    assert open_url("sqlite:////var/runs.db").path == "/var/runs.db"
    assert open_url("sqlite:////var/runs.db?durability=normal").url == "sqlite:////var/runs.db?durability=normal"
    assert open_url("sqlite:////var/runs.db?timeout=5").url == "sqlite:////var/runs.db"
    assert open_url("sqlite:////var/runs.db?timeout=9").url == "sqlite:////var/runs.db?timeout=9.0"


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("sqlite:///a.db?journal=off", "knows the parameters durability and timeout; got journal"),
        ("sqlite:///a.db?durability=none", "full or normal; got 'none'"),
        ("sqlite:///a.db?timeout=soon", "a number of seconds, from 0 to 1e\\+06; got 'soon'"),
        ("sqlite:///a.db?timeout=-1", "a number of seconds"),
        ("sqlite:///a.db?timeout=nan", "a number of seconds"),
        ("sqlite://host/a.db", "a SQLite URL is"),
        ("sqlite:///:memory:", "a SQLite URL is"),
    ],
)
def test_a_url_that_cannot_be_right_is_refused(url: str, sentence: str) -> None:
    if url == "sqlite://host/a.db":
        url = "sqlite://a.db"
    with pytest.raises(WrongCall, match=sentence):
        open_url(url)


@pytest.mark.parametrize(("durability", "level"), [("full", 2), ("normal", 1)])
def test_durability_is_what_was_asked_for(tmp_path, durability: str, level: int) -> None:
    store = _Store(str(tmp_path / "runs.db"), durability=durability)

    with store._file.writing() as db:
        assert db.execute("PRAGMA synchronous").fetchone() == (level,)
    assert store.rows("PRAGMA journal_mode") == [("wal",)]
    store.close()


def test_a_folder_that_is_not_there_is_told(tmp_path) -> None:
    with pytest.raises(StoreAway, match="cannot be opened"):
        SQLitePersister(str(tmp_path / "no" / "runs.db")).put([sealed()])


# -- plans -----------------------------------------------------------------------------------------------------------


def test_the_hot_path_uses_indexes_and_sorts_nothing(store: _Store) -> None:
    sql = sqlite.sql
    statements = [
        (sql.RIPE, ("q", "r", NOW, 10)),
        (sql.LEASE, (LATE, "t", "w", "q", "r", NOW, 10)),
        (sql.NEXT_RIPE, ("q", "r")),
        (sql.COMPLETE, (NOW, NOW, b"", None, "id", "t")),
        (sql.COUNT, (0, 0, 0, 0, 0, "q", "r")),
        (sql.COUNT_IN.replace("RETURNING n", ""), (1, "q", "r")),
        (sql.OVER, (-2, NOW, 10)),
        (sql.PAST_EXPIRES, (NOW, NOW, 10)),
        (sql.RECORD_OF, ("id",)),
    ]

    for statement, values in statements:
        plan = store.plan(statement, *values)
        assert "SCAN" not in plan, f"{statement}\n{plan}"
        assert "TEMP B-TREE" not in plan, f"{statement}\n{plan}"
    assert "run_ripe (shelf=? AND ripe<?)" in store.plan(*_flat(statements[0]))


def test_no_statement_has_numbered_placeholders_of_which_python_3_12_warns() -> None:
    texts = [text for name, text in vars(sqlite.sql).items() if name.isupper() and isinstance(text, str)]

    assert len(texts) > 30
    assert [text for text in texts if re.search(r"\?\d", text)] == []


def test_finding_walks_by_id_or_sorts_one_shelf(store: _Store) -> None:
    walking = store.plan(sqlite.sql.FOUND.format(sqlite.sql.FIND_WALKING.format("lane IN (1, 2)")), "z", 10)
    sorting = store.plan(
        sqlite.sql.FOUND.format(sqlite.sql.FIND_SORTING.format("shelf IN (-3) AND state = 3")), "z", 10
    )

    assert "sqlite_autoindex_run_1 (id<?)" in walking
    assert "run_ripe (shelf=?)" in sorting


def _flat(statement: tuple[str, tuple[Any, ...]]) -> tuple[Any, ...]:
    return (statement[0], *statement[1])


def test_find_is_the_same_whichever_way_it_goes(store: _Store, monkeypatch) -> None:
    store.put([sealed(n, route="abc"[n % 3], due=NOW + n % 2) for n in range(60)])
    for n, claim in enumerate(take(store, "A", "a", "b", limit=20)):
        store.commit([(claim, Outcome.failed("no") if n % 2 else Outcome.complete(b""))], now=NOW)
    filters = [Filter("demo", route, state) for route in (None, "a", "b") for state in (None, *FINDABLE)]
    few = [[r.id for r in store.find(which, now=NOW, limit=7)] for which in filters]

    monkeypatch.setattr("skunkqueue.persistence.sqlite.find.FEW", -10)
    monkeypatch.setattr("skunkqueue.persistence.sqlite.find._is_cheaper", lambda *_: False)

    assert [[r.id for r in store.find(which, now=NOW, limit=7)] for which in filters] == few
    assert any(few)


def test_a_claim_reads_as_little_among_many_runs(store: _Store) -> None:
    """Counted in SQLite's own steps, which no other load on the machine changes."""
    few = _steps_of_a_claim(store, "few", waiting=200, future=0)

    assert _steps_of_a_claim(store, "many", waiting=20_000, future=20_000) <= few * 1.2


def _steps_of_a_claim(store: _Store, queue: str, *, waiting: int, future: int) -> int:
    dues = [NOW] * waiting + [NOW + 99] * future
    store.put([Envelope(f"{queue}-{n:08d}", queue, "foo", due, b"body") for n, due in enumerate(dues)])
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    with store._file.writing() as db:
        db.set_progress_handler(count, 1)
    (*_,) = store.claim([Want(queue, ("foo",), "w", "t", 64)], now=NOW, until=LATE)
    with store._file.writing() as db:
        db.set_progress_handler(None, 0)
    return steps


# -- values ----------------------------------------------------------------------------------------------------------


def test_text_that_is_no_unicode_travels_whole(store: _Store) -> None:
    broken = "caf\udce9 \x00"
    store.put([sealed(1, unique=broken), sealed(2)])
    store.beat(broken, broken, until=LATE)
    claim, other = take(store)
    store.commit([(claim, Outcome.at(0.5, broken)), (other, Outcome.failed(broken))], now=NOW)

    assert store.put([sealed(3, unique=broken)]) == [sealed(1).id]
    assert store.get([claim.id])[claim.id].note == broken
    assert store.get([other.id])[other.id].error == broken
    assert store.workers(now=NOW) == {broken: broken}


def test_long_bodies_travel_whole_and_are_purged(store: _Store) -> None:
    long = [sealed(n, body=bytes([n]) * (10 ** (n + 1)), keep=0) for n in range(1, 7)]
    store.put(long)

    claims = take(store)
    store.commit([(claim, Outcome.complete(b"")) for claim in claims], now=NOW)

    assert [claim.envelope for claim in claims] == long
    assert [record.envelope for record in store.find(Filter(), now=NOW)] == long[::-1]
    assert store.purge(now=NOW + 61) == 6
    assert store.rows("SELECT * FROM long") == []


def test_a_file_that_was_big_is_small_again_when_all_is_purged(store: _Store, monkeypatch) -> None:
    monkeypatch.setattr(sqlite_file, "MUCH", 200)
    monkeypatch.setattr(sqlite_file, "LITTLE", 100)
    store.put([sealed(n, body=os.urandom(3000), keep=0) for n in range(1000)])
    store.cancel([sealed(n).id for n in range(1000)], now=NOW)
    pages = store.rows("PRAGMA page_count")[0][0]

    assert store.purge(now=NOW + 61) == 1000

    assert store.rows("PRAGMA page_count")[0][0] < pages / 10


def test_a_purge_with_many_lanes_of_gone_workers_leaves_no_lane(store: _Store) -> None:
    store.put([sealed(n, route=address(f"w{n}"), keep=0) for n in range(50)])

    while store.purge(now=NOW + 61, limit=20) or store.count():
        assert store.purge(now=NOW + 200, limit=20)

    assert store.rows("SELECT * FROM lane") == []


# -- many processes --------------------------------------------------------------------------------------------------

PRELUDE = """
import os, signal, sys, threading, time
from skunkqueue.envelope import *
from skunkqueue.persistence import *
from skunkqueue.persistence.sqlite import SQLitePersister
from skunkqueue.testing.makers import *
store = SQLitePersister(sys.argv[1])
def say(*words):
    print(*words, flush=True)
"""


class Child:
    """A real process with the store in ``store``; it prints words, and goes on when it reads a line."""

    def __init__(self, path: str, code: str, *args: object, prelude: str = PRELUDE, **named: Any) -> None:
        script = prelude + textwrap.dedent(code)
        command = [sys.executable, "-W", "error", "-c", script, path, *map(str, args)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **named
        )

    def hear(self, limit: float = SOON) -> str:
        """The next line it prints."""
        out = self.process.stdout
        assert out is not None
        if not select.select([out], [], [], limit)[0]:
            raise AssertionError(f"it said nothing; {self.kill()}")
        line = out.readline().strip()
        return line or self.end()

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self, limit: float = SOON * 3) -> str:
        """What it printed until it ended, which must have been well."""
        try:
            out, err = self.process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end; {self.kill()}") from None
        assert self.process.returncode == 0, err
        assert not err, err
        return out.strip()

    def kill(self) -> str:
        self.process.kill()
        return self.process.communicate()[1]


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    born: list[Child] = []

    def make(code: str, *args: object, **named: Any) -> Child:
        born.append(Child(str(tmp_path / "runs.db"), code, *args, **named))
        return born[-1]

    yield make
    for each in born:
        each.kill()


def test_four_senders_and_two_claimers_get_each_run_done_exactly_once(store: _Store, child) -> None:
    senders = [
        child(
            """
            me = int(sys.argv[2])
            for n in range(250):
                store.put([sealed(me * 100_000 + n)])
            for n in range(250, 1000, 50):
                store.put([sealed(me * 100_000 + n + k) for k in range(50)])
            """,
            number,
        )
        for number in range(4)
    ]
    claimers = [
        child(
            """
            given, claims, turn = [], [], 0
            quiet = time.monotonic() + 90
            while time.monotonic() < quiet:
                turn += 1
                done = [(claim, Outcome.complete(b"x")) for claim in claims]
                wants = [Want("demo", ("foo",), "w", f"{sys.argv[2]}-{turn}", 32)]
                taken, claims, _, _ = store.exchange(done, wants, now=NOW + 1, until=NOW + 1000)
                assert len(taken) == len(done)
                given += [claim.id for claim in claims]
                if not claims:
                    if store.count().get(("demo", "foo", "succeeded")) == 4000:
                        break
                    store.wait([WorkKey("demo", "foo")], 0.1)
            say(*given)
            """,
            number,
        )
        for number in range(2)
    ]

    for sender in senders:
        assert sender.end() == ""
    given = [claimer.end().split() for claimer in claimers]

    assert sorted(given[0] + given[1]) == [sealed(me * 100_000 + n).id for me in range(4) for n in range(1000)]
    assert store.count() == {("demo", "foo", "succeeded"): 4000}
    assert store.rows("PRAGMA integrity_check") == [("ok",)]


def test_many_processes_may_open_a_new_file_at_once(store: _Store, child) -> None:
    code = """
        say("ready")
        sys.stdin.readline()
        store.put([sealed(int(sys.argv[2]))])
        say(store.offset() is not None)
        """
    openers = [child(code, number) for number in range(8)]
    assert [each.hear() for each in openers] == ["ready"] * 8

    for each in openers:
        each.go_on()

    assert [each.end() for each in openers] == ["True"] * 8
    assert store.count() == {("demo", "foo", "queued"): 8}
    assert len(store.rows("SELECT * FROM clock")) == 1


def test_a_process_killed_in_the_middle_of_a_transaction_leaves_nothing_of_it(store: _Store, child) -> None:
    store.put([sealed(1)])
    killed = child(
        """
        with store._file.writing() as db:
            db.execute("PRAGMA cache_size = 5")  # so that it spills what is not yet committed
            db.execute("UPDATE run SET state = 2")
            db.executemany("INSERT INTO long VALUES (?, ?)", [(str(n), bytes(1000)) for n in range(1000)])
            say("in it")
            sys.stdin.readline()
        """
    )
    assert killed.hear() == "in it"

    killed.process.send_signal(signal.SIGKILL)
    killed.process.wait(SOON)

    assert [claim.id for claim in take(store)] == [sealed(1).id]
    assert store.rows("PRAGMA integrity_check") == [("ok",)]


@pytest.mark.slow
def test_a_lock_that_is_stuck_becomes_an_error_with_a_sentence(store: _Store, child) -> None:
    store._file.patience = 0.3
    store.put([sealed(1)])
    stuck = child("with store._file.writing():\n    say('held')\n    sys.stdin.readline()\nsay('free')")
    assert stuck.hear() == "held"

    with pytest.raises(StoreAway, match="held by another writer for too long"):
        store.put([sealed(2)])
    assert set(store.get([sealed(1).id, sealed(2).id])) == {sealed(1).id}, "readers do not wait"
    stuck.go_on()
    assert stuck.hear() == "free"

    assert store.put([sealed(2)]) == [sealed(2).id]


# -- forks and threads -----------------------------------------------------------------------------------------------


def test_a_fork_opens_its_own_connection(store: _Store) -> None:
    store.put([sealed(1)])
    store.wait([WorkKey("demo", "foo")], 0)

    def in_the_child() -> None:
        assert len(take(store, "child", limit=1)) == 1
        store.wait([WorkKey("demo", "foo")], 0)
        store.put([sealed(2)])
        store.close()

    _fork(in_the_child)
    store.put([sealed(3)])

    assert store.count() == {("demo", "foo", "running"): 1, ("demo", "foo", "queued"): 2}
    assert store.rows("PRAGMA integrity_check") == [("ok",)]


def test_a_fork_while_other_threads_write_harms_neither_side(store: _Store) -> None:
    """A child that inherited SQLite's own locks would never write, or lose what its parent wrote."""
    stop = threading.Event()
    put: list[str] = []

    def write() -> None:
        number = 1000
        while not stop.is_set():
            number += 1
            put.extend(store.put([sealed(number)]))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for number in range(10):
            _fork(lambda number=number: store.put([sealed(number)]))
    finally:
        stop.set()
        thread.join(SOON)

    ids = [*put, *(sealed(number).id for number in range(10))]
    assert set(store.get(ids)) == set(ids)
    assert store.count() == {("demo", "foo", "queued"): len(ids)}


def _fork(work: Callable[[], object]) -> None:
    """Do it in a forked child, which must come to a good end."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException as error:
            os.write(2, repr(error).encode())
        finally:
            os._exit(status)
    end = time.monotonic() + SOON
    while (found := os.waitpid(pid, os.WNOHANG)) == (0, 0):
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise AssertionError("the forked child hangs")
        time.sleep(0.005)
    assert found[1] == 0


# -- waking ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def only_woken(monkeypatch) -> None:
    """Without the looks at the file's version, so that a wait can only end by its socket."""
    monkeypatch.setattr(SQLitePersister, "_version", lambda self: 0)


def _sockets(store: SQLitePersister) -> list[str]:
    try:
        return os.listdir(f"{store.path}-wake")
    except FileNotFoundError:
        return []


@pytest.mark.usefixtures("only_woken")
def test_a_put_in_another_process_wakes_a_waiter(store: _Store, child) -> None:
    store.wait([WorkKey("demo", "foo")], 0)
    sender = child("say('ready'); sys.stdin.readline(); store.put([sealed(1, route='foo^high')]); say('put')")
    assert sender.hear() == "ready"
    begun = time.monotonic()

    sender.go_on()
    store.wait([WorkKey("demo", "foo")], 10 * SOON)

    assert time.monotonic() - begun < SOON
    assert len(take(store, "A", "foo^high")) == 1


@pytest.mark.usefixtures("only_woken")
def test_an_end_in_another_process_wakes_who_waits_for_the_run(store: _Store, child) -> None:
    store.put([sealed(1)])
    worker = child(
        """
        (claim,) = take(store)
        say("ready")
        sys.stdin.readline()
        store.commit([(claim, Outcome.complete(b""))], now=NOW)
        """
    )
    assert worker.hear() == "ready"
    begun = time.monotonic()

    worker.go_on()
    store.wait([RunKey(sealed(1).id)], 10 * SOON)

    assert time.monotonic() - begun < SOON
    assert worker.end() == ""
    assert store.get([sealed(1).id])[sealed(1).id].state == State.SUCCEEDED


@pytest.mark.usefixtures("only_woken")
def test_nobody_is_woken_for_what_is_not_theirs(store: _Store) -> None:
    store.put([sealed(1, queue="other")])
    keys = [RunKey(sealed(1).id), WorkKey("demo", "foo"), WorkerKey("w1")]
    for key in keys:
        store.wait([key], 0)
    other = SQLitePersister(store.path)

    other.put([sealed(2, queue="other"), sealed(3, queue="demo", route="bar")])
    other.tell("w2", "order")
    other.cancel([sealed(3).id], now=NOW)

    for key in keys:
        begun = time.monotonic()
        store.wait([key], 0.2)
        assert time.monotonic() - begun >= 0.2, key
    other.close()


@pytest.mark.usefixtures("only_woken")
def test_a_waiter_that_does_not_listen_keeps_nobody_from_waking(store: _Store, child) -> None:
    deaf = [child("store.wait([WorkKey('demo', 'foo')], 0); say('deaf'); sys.stdin.readline()") for _ in range(3)]
    assert [each.hear() for each in deaf] == ["deaf"] * 3
    store.wait([WorkKey("demo", "foo")], 0)
    other = SQLitePersister(store.path)

    for number in range(600):
        other.put([sealed(number)])
        begun = time.monotonic()
        store.wait([WorkKey("demo", "foo")], 10 * SOON)
        assert time.monotonic() - begun < SOON
    other.close()


def test_the_sockets_of_a_killed_process_are_cleaned_by_whoever_sends(store: _Store, child) -> None:
    dead = child("store.wait([WorkKey('demo', 'foo')], 0); say('waits'); sys.stdin.readline()")
    assert dead.hear() == "waits"
    assert len(_sockets(store)) == 1
    store.put([sealed(1)])

    dead.process.kill()
    dead.process.wait(SOON)
    store.put([sealed(2)])

    assert _sockets(store) == []


def test_sockets_end_with_their_thread_their_process_and_their_store(store: _Store, child) -> None:
    waiter = threading.Thread(target=store.wait, args=([WorkKey("demo", "foo")], 0))
    waiter.start()
    waiter.join(SOON)
    assert _sockets(store) == []

    assert child("store.wait([WorkKey('demo', 'foo')], 0); say(len(os.listdir(store.path + '-wake')))").end() == "1"
    assert _sockets(store) == []

    store.wait([WorkKey("demo", "foo"), WorkerKey("w1")], 0)
    store.wait([RunKey("a")], 0)
    assert len(_sockets(store)) == 2
    store.close()
    assert _sockets(store) == []


@pytest.mark.usefixtures("only_woken")
def test_waking_survives_that_somebody_deletes_the_folder(store: _Store) -> None:
    other = SQLitePersister(store.path)
    other.put([sealed(1)])
    store.wait([WorkKey("demo", "foo")], 0)
    shutil.rmtree(f"{store.path}-wake")
    other.put([sealed(2)])
    store.wait([WorkKey("demo", "foo")], 0)

    other.put([sealed(3)])
    begun = time.monotonic()
    store.wait([WorkKey("demo", "foo")], 10 * SOON)

    assert time.monotonic() - begun < SOON
    other.close()


def test_a_wait_ends_when_its_store_is_closed(store: _Store) -> None:
    store.wait([WorkKey("demo", "foo")], 0)
    ready = threading.Event()

    def wait() -> None:
        store.wait([WorkKey("demo", "foo")], 0)
        ready.set()
        store.wait([WorkKey("demo", "foo")], 10 * SOON)

    waiter = threading.Thread(target=wait, daemon=True)
    waiter.start()
    assert ready.wait(SOON)

    store.close()

    waiter.join(SOON)
    assert not waiter.is_alive()


def test_waking_works_where_paths_are_longer_than_a_socket_may_have(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(SQLitePersister, "_version", lambda self: 0)
    folder = tmp_path / ("f" * 100) / ("g" * 100)
    folder.mkdir(parents=True)
    store, other = SQLitePersister(str(folder / "runs.db")), SQLitePersister(str(folder / "runs.db"))
    store.wait([WorkKey("demo", "foo")], 0)

    other.put([sealed(1)])
    begun = time.monotonic()
    store.wait([WorkKey("demo", "foo")], 10 * SOON)

    assert time.monotonic() - begun < SOON
    store.close()
    other.close()


def test_without_sockets_a_waiter_looks_at_the_version_of_the_file(store: _Store, child, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no sockets here")

    monkeypatch.setattr(sqlite_notify, "_bind", refuse)
    store.put([sealed(1, route="bar")])
    store.wait([WorkKey("demo", "foo")], 0)
    sender = child("say('ready'); sys.stdin.readline(); store.put([sealed(2)]); say('put')")
    assert sender.hear() == "ready"
    waiter = threading.Thread(target=store.wait, args=([RunKey(sealed(1).id)], 10 * SOON), daemon=True)
    waiter.start()

    sender.go_on()
    begun = time.monotonic()
    for _ in range(100):
        store.wait([WorkKey("demo", "foo")], SOON)
        if take(store):
            break
    assert time.monotonic() - begun < SOON
    store.cancel([sealed(1).id], now=NOW)
    waiter.join(SOON)
    assert not waiter.is_alive()


def test_waiting_costs_next_to_no_processor_time(store: _Store) -> None:
    store.put([sealed(1)])
    store.wait([WorkKey("demo", "bar")], 0)
    begun = time.thread_time()

    store.wait([WorkKey("demo", "bar"), RunKey(sealed(1).id)], 1.0)

    assert time.thread_time() - begun < 0.05


# -- the clock -------------------------------------------------------------------------------------------------------


def test_all_processes_share_one_clock(store: _Store, child) -> None:
    store.offset()
    other = child("say(repr(store.offset() + time.time()))")

    there = float(other.hear())
    here = (store.offset() or 0) + time.time()

    assert abs(here - there) < SOON


def test_where_the_machine_cannot_say_when_it_started_the_wall_clock_counts(store: _Store, monkeypatch) -> None:
    monkeypatch.setattr(sqlite, "boot_id", lambda: None)

    assert store.offset() == 0.0


# -- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path) -> None:
    path = tmp_path / "letter.txt"
    path.write_bytes(b"Dear Sir or Madam, " * 500)

    with pytest.raises(StoreError, match="is not a SkunkQueue store"):
        SQLitePersister(str(path)).put([sealed()])
    assert path.read_bytes() == b"Dear Sir or Madam, " * 500


def test_a_database_of_another_program_is_refused_and_left_alone(tmp_path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE song (title)")
    db.close()
    before = path.read_bytes()

    with pytest.raises(StoreError, match="of another program"):
        SQLitePersister(str(path)).count()
    assert path.read_bytes() == before


def test_a_newer_store_is_refused_with_a_sentence(store: _Store) -> None:
    store.put([sealed()])
    with store._file.writing() as db:
        db.execute("PRAGMA user_version = 2000")
    store.close()

    with pytest.raises(StoreVersion, match="newer SkunkQueue"):
        store.put([sealed(2)])


def test_a_newer_minor_version_is_used(store: _Store) -> None:
    with store._file.writing() as db:
        db.execute("PRAGMA user_version = 1007")
    store.close()

    assert store.put([sealed()]) == [sealed().id]


def test_a_damaged_file_is_an_error_of_ours(store: _Store) -> None:
    store.put([sealed(n) for n in range(500)])
    store.close()
    with open(store.path, "r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 40_000)

    with pytest.raises(StoreError, match="is damaged"):
        store.find(Filter(), now=NOW)


FULL = """
    import errno, resource
    store.put([sealed(1)])
    store.offset()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit = os.path.getsize(store.path + "-wal") + 100_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    stored = [sealed(1).id]
    try:
        for n in range(2, 10_000):
            stored += store.put([sealed(n, body=os.urandom(500))])
    except StoreError as error:
        say(type(error).__name__, error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    stored += store.put([sealed(20_000)])
    assert set(store.get(stored)) == set(stored)
    assert store.count() == {("demo", "foo", "queued"): len(stored)}, (store.count(), len(stored))
    """


def test_a_file_that_cannot_grow_refuses_and_goes_on_when_it_can(child) -> None:
    said = child("from skunkqueue.errors import *\n" + textwrap.dedent(FULL)).end()

    assert said.startswith("StoreFull")
    assert "nothing was stored" in said


def test_a_full_disk_refuses_and_goes_on_when_there_is_room(tmp_path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mounting, capture_output=True).returncode != 0:
        pytest.skip("a small disk cannot be mounted here")
    try:
        _fill_and_go_on(disk)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def _fill_and_go_on(disk: Path) -> None:
    store = SQLitePersister(str(disk / "runs.db"))
    stored: list[str] = []
    (disk / "ballast").write_bytes(bytes(400_000))
    with pytest.raises(StoreRefused, match="full"):
        for n in range(10_000):
            stored += store.put([sealed(n, body=os.urandom(500))])
    with pytest.raises(StoreRefused, match="full"):
        store.put([sealed(10_000 + n, body=os.urandom(500)) for n in range(200)])

    (disk / "ballast").unlink()

    stored += store.put([sealed(20_000)])
    assert set(store.get(stored)) == set(stored)
    assert store.count() == {("demo", "foo", "queued"): len(stored)}
    store.close()


def test_a_folder_that_may_not_be_written_refuses() -> None:
    """As a user who is not root, whom no mode keeps from writing."""
    code = """
        from skunkqueue.errors import *
        import skunkqueue.persistence.sqlite.transaction
        store.put([sealed(1)])
        store.close()
        os.chmod(os.path.dirname(store.path), 0o555)
        os.chmod(store.path, 0o444)
        if os.geteuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        for path in (store.path, os.path.join(os.path.dirname(store.path), "new.db")):
            try:
                SQLitePersister(path).put([sealed(2)])
            except StoreRefused as error:
                say(error)
        """
    with tempfile.TemporaryDirectory() as folder:  # unlike tmp_path, in a folder that others may enter
        said = Child(os.path.join(folder, "runs.db"), code).end()

    assert said.count("is read-only; nothing was stored") == 2, said


def test_a_file_that_was_deleted_is_made_anew(store: _Store, monkeypatch) -> None:
    monkeypatch.setattr(sqlite_file, "GLANCE", 0.0)
    store.put([sealed(1)])
    for name in ("runs.db", "runs.db-wal", "runs.db-shm"):
        (Path(store.path).parent / name).unlink(missing_ok=True)

    assert store.put([sealed(2)]) == [sealed(2).id]

    assert set(store.get([sealed(1).id, sealed(2).id])) == {sealed(2).id}
    assert SQLitePersister(store.path).count() == {("demo", "foo", "queued"): 1}


def test_a_file_that_was_replaced_is_opened_anew(store: _Store, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sqlite_file, "GLANCE", 0.0)
    store.put([sealed(1)])
    other = SQLitePersister(str(tmp_path / "other.db"))
    other.put([sealed(2)])
    other.close()
    for name in ("runs.db-wal", "runs.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    os.replace(other.path, store.path)

    assert list(store.get([sealed(1).id, sealed(2).id])) == [sealed(2).id]
    assert take_one(store).id == sealed(2).id


def test_an_error_inside_a_transaction_undoes_all_of_it(store: _Store) -> None:
    store.put([sealed(1)])
    unfit: Any = object()

    with pytest.raises(StoreError):
        store.put([sealed(2), sealed(3)._replace(body=b"", keep=unfit)])

    assert store.count() == {("demo", "foo", "queued"): 1}
    assert store.put([sealed(2)]) == [sealed(2).id]


def test_a_claim_ends_no_more_expired_runs_at_once_than_it_should(store: _Store) -> None:
    store.put([sealed(n, expires=NOW) for n in range(3000)])
    store.put([sealed(5000)])

    first = store.claim([want("A", limit=600)], now=NOW, until=NOW + LEASE)
    claims: list[Claim] = []
    for turn in range(10):
        claims += store.claim([want(f"B{turn}", limit=600)], now=NOW, until=NOW + LEASE)

    assert first == []
    assert [claim.id for claim in claims] == [sealed(5000).id]
    assert store.count() == {("demo", "foo", "cancelled"): 3000, ("demo", "foo", "running"): 1}
