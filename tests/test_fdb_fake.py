"""What only the fake of FoundationDB can show: errors on demand, clusters that die, hang and come back."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fdb_servers import FakeCluster, binding, is_real, opened
from pools import LIMIT, until

pytestmark = pytest.mark.skipif(is_real(), reason="the binding has the real library under it")

fdb = binding()


@pytest.fixture(scope="module")
def shared() -> Iterator[FakeCluster]:
    with FakeCluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(shared: FakeCluster) -> Iterator[FakeCluster]:
    yield shared
    left = shared.ask("no_faults")
    opened(shared.file).clear_range(b"", b"\xff")
    assert left == 0, "errors were ordered that nobody met"


@pytest.fixture
def db(cluster: FakeCluster) -> Any:
    return opened(cluster.file)


def code_of(call: Any) -> int:
    with pytest.raises(fdb.FDBError) as caught:
        call()
    return int(caught.value.code)


@pytest.mark.parametrize("took", [False, True])
def test_a_commit_can_be_left_unknown(cluster: FakeCluster, db: Any, took: bool) -> None:
    cluster.fail(1021, took=took)
    tr = db.create_transaction()
    tr[b"a"] = b"1"

    assert code_of(tr.commit().wait) == 1021
    assert db[b"a"] == (b"1" if took else None)


@pytest.mark.parametrize("took", [False, True])
def test_a_function_whose_commit_is_left_unknown_is_run_again(cluster: FakeCluster, db: Any, took: bool) -> None:
    cluster.fail(1021, took=took)

    db.add(b"n", b"\1")

    assert db[b"n"] == (b"\2" if took else b"\1")


def test_errors_are_for_those_who_write_below_a_prefix(cluster: FakeCluster, db: Any) -> None:
    cluster.fail(1020, took=False, prefix=b"mine/", skip=1)
    first, other, second = (db.create_transaction() for _ in range(3))
    first[b"mine/1"] = other[b"other"] = second[b"mine/2"] = b""

    first.commit().wait()
    other.commit().wait()

    assert code_of(second.commit().wait) == 1020


def test_a_version_can_be_made_too_old_at_once(cluster: FakeCluster, db: Any) -> None:
    tr = db.create_transaction()
    tr.get_read_version().wait()
    cluster.age(6)

    assert code_of(tr[b"a"].wait) == 1007


def test_conflicts_are_counted(cluster: FakeCluster, db: Any) -> None:
    before = cluster.stats()
    tr = db.create_transaction()
    tr[b"a"].wait()
    tr[b"b"] = b""
    db[b"a"] = b""

    assert code_of(tr.commit().wait) == 1020
    after = cluster.stats()
    assert (after["commits"] - before["commits"], after["conflicts"] - before["conflicts"]) == (1, 1)


def test_a_cluster_that_hangs_keeps_nobody_longer_than_the_timeout(cluster: FakeCluster, db: Any) -> None:
    with cluster.hanging():
        tr = db.create_transaction()
        tr.options.set_timeout(200)
        tr[b"a"] = b"1" * 90_000
        for number in range(80):  # more than sockets hold
            tr[b"%d" % number] = b"1" * 90_000
        assert code_of(tr.commit().wait) == 1031

    assert until(lambda: db[b"b"] is None)


def test_what_a_killed_cluster_has_confirmed_is_there_again() -> None:
    with FakeCluster() as cluster:
        db = opened(cluster.file)
        db[b"a"] = b"1"
        db[b"b"] = b"1"
        del db[b"b"]
        tr = db.create_transaction()
        version = tr.get_read_version().wait()

        cluster.kill()
        cluster.start()

        assert (db[b"a"], db[b"b"]) == (b"1", None)
        assert code_of(tr[b"a"].wait) == 1007
        later = db.create_transaction()
        assert later.get_read_version().wait() > version + 90_000_000


def test_a_watch_outlives_its_cluster() -> None:
    with FakeCluster() as cluster:
        db = opened(cluster.file)
        tr = db.create_transaction()
        watch = tr.watch(b"a")
        tr.commit().wait()

        cluster.kill()
        cluster.start()
        db[b"a"] = b"1"

        assert until(watch.is_ready)
        assert watch.wait() is None


def test_a_commit_under_way_when_the_cluster_dies_is_unknown() -> None:
    with FakeCluster() as cluster:
        db = opened(cluster.file)
        db[b"a"] = b"1"
        tr = db.create_transaction()
        tr[b"a"] = b"2"
        tr.get_read_version().wait()
        with cluster.hanging():
            commit = tr.commit()
            time.sleep(0.1)
            cluster.kill()
            cluster.start()

        assert code_of(commit.wait) == 1021


def test_a_process_that_waits_for_a_cluster_that_is_away_stays_idle() -> None:
    with FakeCluster() as cluster:
        db = opened(cluster.file)
        db[b"a"] = b"1"
        cluster.kill()
        waiting = db.create_transaction()
        future = waiting[b"a"]
        before = time.process_time()
        time.sleep(1)
        assert time.process_time() - before < 0.3
        cluster.start()

        assert future.value == b"1"


def test_only_where_the_tests_put_it_the_fake_is_found() -> None:
    program = "import fdb; fdb.api_version(710)"
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "LD_LIBRARY_PATH")}

    without = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, timeout=LIMIT, check=False)
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=LIMIT, check=False)

    assert found.returncode == 0
    assert without.returncode == 0 or b"Unable to locate the FoundationDB API shared library" in without.stderr
