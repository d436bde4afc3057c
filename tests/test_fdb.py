"""What is particular to the FoundationDB store: its URLs, commits of unknown result, directories, sizes, its clock."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fdb_servers import FakeCluster, binding, drop, fresh_name, fresh_url, only_fake, opened

fdb = binding()

from skunkqueue import SkunkQueue, StoreAway, StoreError, StoreVersion, WrongCall  # noqa: E402
from skunkqueue.envelope import Filter, Outcome, Want  # noqa: E402
from skunkqueue.persistence import Persister  # noqa: E402
from skunkqueue.persistence.fdb import FDBPersister, connect, default_cfg, open_url  # noqa: E402
from skunkqueue.persistence.fdb.parts import RUNS  # noqa: E402
from skunkqueue.persistence.fdb.parts import parts as split  # noqa: E402
from skunkqueue.persistence.fdb.url import parse_url  # noqa: E402
from skunkqueue.persistence.memory import MemoryPersister  # noqa: E402
from skunkqueue.persistence.url import locate  # noqa: E402
from skunkqueue.testing.makers import LATE, NOW, count_states, ids_of, record_of, sealed, take, want  # noqa: E402
from skunkqueue.testing.pair import Call  # noqa: E402
from skunkqueue.testing.walk import SeededWalk, _any_of  # noqa: E402


@pytest.fixture
def url(shared_fdb: str) -> Iterator[str]:
    name = fresh_name()
    yield f"fdb://{shared_fdb}?prefix={name}"
    drop(shared_fdb, name)


@pytest.fixture
def store(url: str) -> Iterator[FDBPersister]:
    with closing(open_url(url)) as made:
        made.count()
        yield made


@pytest.fixture(scope="module")
def faulty() -> Iterator[FakeCluster]:
    """A cluster of its own, which is told to give errors."""
    with FakeCluster() as cluster:
        yield cluster


def contents(db: Any, prefix: bytes) -> list[tuple[bytes, bytes]]:
    return [(pair.key[len(prefix) :], pair.value) for pair in db.get_range_startswith(prefix)]


def run_code(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """In a fresh interpreter, which sees the fake."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env={**os.environ, **env}
    )


# -- URLs and the client ---------------------------------------------------------------------------------------------


def test_urls_name_a_cluster_file_and_a_directory() -> None:
    assert parse_url("fdb://")[1:3] == (None, ("skunkqueue",))
    assert parse_url("fdb:///etc/fdb.cluster")[1:3] == ("/etc/fdb.cluster", ("skunkqueue",))
    given = parse_url("fdb:///my%20files/fdb.cluster?prefix=apps/mail&tenant=t&timeout=2.5")
    assert given[1:] == ("/my files/fdb.cluster", ("apps", "mail"), "t", 2.5)
    assert locate(*(default_cfg[name] for name in ("conn_url", "backend", "dbname"))).url == "fdb://?prefix=skunkqueue"
    assert locate("/a/fdb.cluster", "fdb", "mail").url == "fdb:///a/fdb.cluster?prefix=mail"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("fdb://host:4500/name", "with the path from the root"),
        ("fdb:///fdb.cluster?db=1", "has the parameters prefix, tenant, timeout"),
        ("fdb://?prefix=", "prefix is a name"),
        ("fdb://?prefix=a//b", "prefix is a name"),
        ("fdb://?tenant=", "tenant is the name"),
        ("fdb://?timeout=soon", "timeout is a number of seconds"),
        ("fdb://?timeout=0", "timeout is a number of seconds"),
    ],
)
def test_a_wrong_url_is_told_in_a_sentence(wrong: str, says: str) -> None:
    with pytest.raises(WrongCall, match=says):
        open_url(wrong)


@pytest.mark.parametrize("content", [None, "no address\n", "a:b@127.0.0.1:1\n"])
def test_a_fire_where_no_cluster_answers_raises_within_seconds(tmp_path: Path, content: str | None) -> None:
    """The cluster file is missing, or is not one, or nobody listens at its address."""
    file = tmp_path / "fdb.cluster"
    if content is not None:
        file.write_text(content)
    with SkunkQueue("demo", f"fdb://{file}?timeout=1") as queue:
        begun = time.monotonic()

        with pytest.raises(StoreAway, match=r"cluster file|cannot be reached"):
            queue.event(print).fire(1)

    assert time.monotonic() - begun < 20


def test_without_the_binding_one_is_told_what_to_install() -> None:
    code = "import sys; sys.modules['fdb'] = None; import skunkqueue; skunkqueue.SkunkQueue('demo', 'fdb://').count()"

    said = run_code(code).stderr.strip().splitlines()[-1]

    assert "the fdb store needs its driver: pip install '.[fdb]' in your clone of SkunkQueue" in said


@only_fake
def test_without_the_client_library_one_is_told_so() -> None:
    code = "import skunkqueue; skunkqueue.SkunkQueue('demo', 'fdb://').count()"

    said = run_code(code, PYTHONPATH="").stderr.strip()

    assert "needs its client library, of version 7.1 or newer: install foundationdb-clients" in said


def test_a_program_may_choose_the_api_version_but_no_older_one(url: str) -> None:
    code = (
        "import fdb, sys; fdb.api_version(int(sys.argv[1])); import skunkqueue\n"
        f"try: print(skunkqueue.SkunkQueue('demo', {url!r}).count()['queued'])\n"
        "except skunkqueue.StoreError as error: print(error)"
    )

    def with_version(version: int) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code, str(version)], capture_output=True, text=True, timeout=60, check=False
        )
        return done.stdout

    newer = min(720, getattr(fdb, "LATEST_API_VERSION", 710))  # 7.1 does not say
    assert with_version(newer) == "0\n"
    assert "SkunkQueue needs 710 or a newer one" in with_version(700)


FORK = """
import os, sys
from skunkqueue import SkunkQueue, StoreError
queue = SkunkQueue('demo', sys.argv[1])
job = queue.event(print)
if sys.argv[2] == 'after':
    job.fire('parent')
child = os.fork()
if child == 0:
    try:
        job.fire('child')
        print('fired', flush=True)
    except StoreError as error:
        print(error, flush=True)
    os._exit(0)
os.waitpid(child, 0)
print(queue.count()['queued'], flush=True)
os._exit(0)
"""


@pytest.mark.parametrize(("when", "says", "left"), [("before", "fired", 1), ("after", "does not survive a fork", 1)])
def test_a_forked_process_opens_its_own_or_refuses_with_a_sentence(url: str, when: str, says: str, left: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK, url, when], capture_output=True, text=True, timeout=60, check=False
    )

    said = done.stdout.splitlines()
    assert says in said[0], done.stderr
    assert said[-1] == str(left)


# -- directories -----------------------------------------------------------------------------------------------------


def test_queues_of_two_directories_do_not_see_each_other(shared_fdb: str, store: FDBPersister) -> None:
    name = fresh_name()
    with closing(open_url(f"fdb://{shared_fdb}?prefix={name}/nested")) as other:
        store.put([sealed(1)])
        other.put([sealed(1, body=b"other")])

        assert take(store)[0].envelope == sealed(1)
        assert record_of(other, sealed(1).id).envelope == sealed(1, body=b"other")
        assert count_states(other) == {"queued": 1}
    drop(shared_fdb, name)


@pytest.mark.parametrize("what", ["moved", "removed"])
def test_a_directory_that_is_gone_is_a_clear_error_and_nothing_is_written(
    shared_fdb: str, store: FDBPersister, what: str
) -> None:
    store.put([sealed(1)])
    (name,) = store.target.path
    db = opened(shared_fdb)
    prefix = fdb.directory.open(db, (name,)).key()
    if what == "moved":
        fdb.directory.move(db, (name,), (name + "-moved",))
    else:
        fdb.directory.remove(db, (name,))
    before = contents(db, prefix)

    for call in (lambda: store.put([sealed(2)]), lambda: take(store), lambda: store.count(), store.offset):
        with pytest.raises(StoreError, match="was moved or removed"):
            call()

    assert contents(db, prefix) == before
    if what == "moved":
        fdb.directory.move(db, (name + "-moved",), (name,))
        assert ids_of(take(store)) == [sealed(1).id]


def test_a_newer_layout_is_refused(url: str, shared_fdb: str, store: FDBPersister) -> None:
    opened(shared_fdb)[store._link.space().prefix + b"v"] = b"2"

    with pytest.raises(StoreVersion, match="install a newer SkunkQueue"), closing(open_url(url)) as other:
        other.count()


# -- commits whose result is unknown ---------------------------------------------------------------------------------


def _prepared(store: Persister) -> dict[str, Any]:
    store.put([sealed(n) for n in range(6)])
    store.put([sealed(10 + n, unique="key", route=f"u{n}") for n in range(2)])
    store.put([sealed(20, due=NOW + 50, route="later"), sealed(21, route="own", expires=NOW + 5)])
    claims = take(store, limit=4)
    store.commit([(claims[3], Outcome.failed("no"))], now=NOW)
    store.beat("w1", "about", until=NOW + 60)
    return {"claims": claims}


def _again_and_again(store: Persister, claims: Any) -> Any:
    outcomes = [(claims[0], Outcome.again(due=NOW)), (claims[1], Outcome.complete(b"value"))]
    return store.exchange(outcomes, [want("B", limit=3)], now=NOW, until=LATE)[:2]


VERBS: dict[str, Callable[[Persister, Any], Any]] = {
    "put": lambda store, claims: store.put([sealed(30), sealed(0), sealed(31, unique="key", route="u1")]),
    "claim": lambda store, claims: take(store, "B", limit=1),
    "extend": lambda store, claims: store.extend(claims, until=LATE + 5),
    "commit": lambda store, claims: store.commit([(c, Outcome.complete(b"x")) for c in claims[:3]], now=NOW),
    "exchange": _again_and_again,
    "cancel": lambda store, claims: store.cancel([sealed(0).id, sealed(5).id, sealed(20).id], now=NOW),
    "reopen": lambda store, claims: store.reopen([claims[3].id], now=NOW),
    "promote": lambda store, claims: store.promote([sealed(20).id], now=NOW),
    "discard": lambda store, claims: store.discard([claims[3].id, sealed(20).id], now=NOW),
    "beat": lambda store, claims: store.beat("w1", "new", until=NOW + 90),
    "tell": lambda store, claims: store.tell("w1", "order"),
    "purge": lambda store, claims: store.purge(now=NOW + 9),
}


@only_fake
@pytest.mark.parametrize("took", [False, True])
@pytest.mark.parametrize("verb", VERBS)
def test_a_commit_of_unknown_result_changes_no_answer_and_no_record(faulty: FakeCluster, verb: str, took: bool) -> None:
    """Whether it took effect or not, of each verb: it is done once, and says what it did."""
    model = MemoryPersister(verb)
    with closing(open_url(fresh_url(faulty.file))) as store:
        for each in (model, store):
            prepared = _prepared(each)
            if each is store:
                faulty.fail(1021, took=took, prefix=store._link.space().prefix)
            answer = VERBS[verb](each, prepared["claims"])
            if each is model:
                wanted = answer

        assert answer == wanted
        ids = [sealed(n).id for n in range(40)]
        assert store.get(ids) == model.get(ids)
        assert store.count() == model.count()
        orders = [[order.text for order in each.beat("w1", "", until=NOW + 60)] for each in (model, store)]
        assert orders[0] == orders[1]


class UnsureWalk(SeededWalk):
    """A walk in which the result of some commits is unknown, or they meet another."""

    cluster: FakeCluster

    def begins(self, call: Call) -> None:
        if self.dice.random() < 0.5:
            code, took = self.dice.choice([(1021, True), (1021, False), (1020, False)])
            self.cluster.fail(code, took=took, prefix=self.store._link.space().prefix)  # type: ignore[attr-defined]


@only_fake
@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(n, marks=pytest.mark.slow) for n in range(3, 40))])
def test_the_random_walk_finds_no_difference_where_commits_are_unsure(faulty: FakeCluster, seed: int) -> None:
    import random

    dice = random.Random(seed)
    with closing(open_url(fresh_url(faulty.file))) as store:
        walk = UnsureWalk(store, seed)
        walk.cluster = faulty
        for step in range(100):
            walk.step = step
            walk.take(_any_of(walk.verbs(), dice), dice)
            walk.compare_all()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("first", range(40, 100, 15))
def test_sixty_more_random_walks_find_no_difference(shared_fdb: str, first: int) -> None:
    """Beyond the forty of the contract; each on a directory of its own."""
    from skunkqueue.testing import random_walk

    for seed in range(first, first + 15):
        name = fresh_name()
        with closing(open_url(f"fdb://{shared_fdb}?prefix={name}")) as walked:
            random_walk(walked, seed=seed)
        drop(shared_fdb, name)


# -- sizes -----------------------------------------------------------------------------------------------------------


def test_an_exchange_is_one_transaction(store: FDBPersister) -> None:
    store.put([sealed(n) for n in range(128)])
    claims = take(store, limit=64)
    before = store._link.transactions

    found = store.exchange([(c, Outcome.complete(b"")) for c in claims], [want("B", limit=64)], now=NOW, until=LATE)

    assert (len(found.taken), len(found.claims)) == (64, 64)
    assert store._link.transactions - before == 1


def test_what_is_too_much_for_one_transaction_is_split(store: FDBPersister) -> None:
    """Bodies and values of three times as much as a transaction may have, in one call each."""
    large = [sealed(n, body=bytes([n]) * 500_000) for n in range(60)]
    store.count()
    before = store._link.transactions

    store.put(large)
    claims = take(store, limit=60)
    store.commit([(claim, Outcome.complete(claim.envelope.body[::-1])) for claim in claims], now=NOW)

    assert [claim.envelope for claim in claims] == large
    assert {record.value == record.envelope.body for record in store.get(ids_of(large)).values()} == {True}
    assert store._link.transactions - before >= 80


def test_what_is_too_much_to_read_in_one_transaction_is_read_in_several(store: FDBPersister) -> None:
    """Each has five seconds: a claim, a look and a cancel of many large runs would never be done."""
    large = [sealed(n, body=bytes([n]) * 1_000_000) for n in range(12)]
    store.put(large)

    def counted(call: Callable[[], Any]) -> Any:
        before = store._link.transactions
        found = call()
        assert store._link.transactions - before >= 3
        return found

    claims = counted(lambda: take(store, limit=12))
    records = counted(lambda: store.get(ids_of(large)))
    listed = counted(lambda: store.find(Filter(), now=NOW))
    cancelled = counted(lambda: store.cancel(ids_of(large), now=NOW))

    assert [claim.envelope for claim in claims] == large
    assert list(records) == ids_of(large)
    for found in (records.values(), reversed(listed), cancelled):
        assert [record.envelope for record in found] == large


@only_fake
def test_what_is_too_slow_for_one_transaction_is_done_by_halves(faulty: FakeCluster) -> None:
    with closing(open_url(fresh_url(faulty.file))) as store:
        store.count()
        faulty.fail(1007, took=False, prefix=store._link.space().prefix, count=4)

        assert store.put([sealed(n) for n in range(40)]) == [sealed(n).id for n in range(40)]

        assert count_states(store) == {"queued": 40}


def test_parts_hold_what_a_transaction_may_carry() -> None:
    sizes = [10, 10, 900_000, 5, 400_000, 390_000, *[1] * 700]

    found = [len(part) for part in split(sizes, lambda size: size)]

    assert found[:3] == [2, 1, 4]
    assert sum(found) == len(sizes)
    assert max(found) <= RUNS


# -- nothing is left -------------------------------------------------------------------------------------------------


def test_nothing_is_left_when_all_is_done_and_purged(shared_fdb: str, store: FDBPersister) -> None:
    """But for the version of the layout, and the clock."""
    store.offset()
    store.put([sealed(n, unique=str(n), expires=LATE + 99, body=b"x" * 2000, keep=0.0) for n in range(6)])
    store.beat("w1", "", until=NOW + 5)
    store.tell("w1", "order")
    store.tell("never", "order")
    claims = take(store, limit=3)
    store.commit([(claims[0], Outcome.failed("e" * 3000, value=b"v" * 3000, notes=b"n" * 3000))], now=NOW)
    store.reopen([claims[0].id], now=NOW)
    store.cancel([sealed(n).id for n in range(6)], now=NOW)
    store.exchange([], [Want("demo", ("foo",), "w1", "B", 3)], now=NOW, until=LATE)

    store.purge(now=NOW + 9999)

    prefix = store._link.space().prefix
    assert [key for key, _ in contents(opened(shared_fdb), prefix)] == [b"k", b"k\1", b"v"]


def test_many_things_that_are_needed_do_not_hide_what_nobody_needs(
    store: FDBPersister, shared_fdb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each purge looks at some only, and the next one at others."""
    monkeypatch.setattr("skunkqueue.persistence.fdb.housekeeping.SCANNED", 5)
    store.put([sealed(n, route=f"a{n:02}") for n in range(20)])
    store.put([sealed(30, route="z", keep=0.0)])
    store.cancel([sealed(30).id], now=NOW)
    space = store._link.space()
    signals = [space.work_signal("demo", route) for route in ("a00", "a19", "z")]

    for _ in range(6):
        store.purge(now=NOW + 9999)

    assert [opened(shared_fdb)[key] is not None for key in signals] == [True, True, False]


# -- versions --------------------------------------------------------------------------------------------------------


def test_a_put_right_after_another_asks_for_no_version(store: FDBPersister, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads as of the one before, which is a trip less; others' runs of the meantime are met all the same."""
    monkeypatch.setattr(connect, "RECENT", 100.0)  # on a machine this busy
    set_versions: list[int] = []
    real = fdb.Transaction.set_read_version
    monkeypatch.setattr(fdb.Transaction, "set_read_version", lambda tr, v: (set_versions.append(v), real(tr, v))[1])

    for n in range(5):
        store.put([sealed(n)])

    assert len(set_versions) == 4
    assert set_versions == sorted(set_versions)
    assert count_states(store) == {"queued": 5}


def test_what_others_did_since_the_last_commit_here_is_seen(store: FDBPersister, url: str) -> None:
    """A run that is there, a unique key that is held or free again, a run that was purged."""
    with closing(open_url(url)) as other:
        for handle in (store, other):
            handle.put([sealed(90), sealed(91, unique="held", keep=0.0), sealed(92, unique="free")])
        other.cancel([sealed(91).id], now=NOW)
        other.purge(now=NOW + 9999)
        other.put([sealed(1, body=b"first"), sealed(3, unique="new")])

        answers = [
            store.put([sealed(1, body=b"second")]),
            store.put([sealed(2, unique="held")]),
            store.put([sealed(91)]),
            store.put([sealed(4, unique="free")]),
            store.put([sealed(5, unique="new")]),
        ]

    assert answers == [[sealed(n).id] for n in (1, 2, 91, 92, 3)]
    assert record_of(store, sealed(1).id).envelope.body == b"first"
    assert count_states(store) == {"queued": 6}
