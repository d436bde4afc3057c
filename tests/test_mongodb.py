"""MongoDB's own: URLs, secrets, errors, versions, forks, lost replies."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest

pytest.importorskip("pymongo")

from mongo_servers import client_of, fresh_url
from pymongo.errors import OperationFailure
from redis_server import CuttingProxy, free_port

from skunkqueue import SkunkQueue, StoreAway, StoreRefused, StoreVersion, WrongCall
from skunkqueue.envelope import Filter, Outcome, State
from skunkqueue.errors import StoreError, StoreFull
from skunkqueue.persistence import RunKey, WorkKey
from skunkqueue.persistence.mongodb import MongoPersister, default_cfg, open_url
from skunkqueue.persistence.mongodb.connect import PARTIAL, RIPE
from skunkqueue.persistence.mongodb.errors import of_code
from skunkqueue.persistence.put import put
from skunkqueue.persistence.url import locate
from skunkqueue.testing.makers import LATE, NOW, record_of, sealed, take, take_one, want


@pytest.fixture
def url(shared_mongodb: str) -> Iterator[str]:
    made = fresh_url(shared_mongodb)
    yield made
    with client_of(made) as client:
        client.drop_database(client.get_default_database())


@pytest.fixture
def open_store() -> Iterator[Callable[[str], MongoPersister]]:
    """Opens stores, which are closed afterwards."""
    with ExitStack() as opened:
        yield lambda url: opened.enter_context(closing(open_url(url)))


@pytest.fixture
def store(url: str, open_store: Callable[[str], MongoPersister]) -> MongoPersister:
    return open_store(url)


# -- where it is -----------------------------------------------------------------------------------------------------


def test_the_default_configuration_leads_to_the_database_skunkqueue() -> None:
    address = locate(**default_cfg)

    assert address == ("mongodb", "mongodb://localhost:27017/skunkqueue")
    assert open_url(address.url).target.dbname == "skunkqueue"


@pytest.mark.parametrize(
    ("conn_url", "dbname", "wanted"),
    [
        ("localhost:27017", "mine", "mongodb://localhost:27017/mine"),
        ("one:1,two:2/?replicaSet=rs", "mine", "mongodb://one:1,two:2/mine?replicaSet=rs"),
        ("", None, "mongodb://localhost:27017/skunkqueue"),
    ],
)
def test_the_argument_dbname_names_the_database(conn_url: str, dbname: str | None, wanted: str) -> None:
    assert locate(conn_url, "mongodb", dbname).url == wanted


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("mongodb://localhost", "mongodb://localhost/mine"),
        ("mongodb://me:secret@one:1,two:2/?replicaSet=rs", "mongodb://me:secret@one:1,two:2/mine?replicaSet=rs"),
        ("mongodb+srv://example.org?tls=true", "mongodb+srv://example.org/mine?tls=true"),
        ("mongodb://localhost/mine", "mongodb://localhost/mine"),
    ],
)
def test_a_url_without_a_database_takes_that_of_dbname(url: str, wanted: str) -> None:
    assert locate(url, dbname="mine").url == wanted
    assert locate(url, "mongodb", "mine").url == wanted


def test_a_url_and_a_dbname_that_differ_are_refused() -> None:
    with pytest.raises(WrongCall, match="the URL names the database 'mine', but dbname is 'yours'; give one"):
        locate("mongodb://me:secret@localhost/mine?tls=true", "mongodb", "yours")


def test_the_database_is_the_path_of_the_url() -> None:
    assert open_url("mongodb://one,two/mine?replicaSet=rs").target.dbname == "mine"
    assert open_url("mongodb+srv://user:secret@example.org/?tls=true").target.dbname == "skunkqueue"


@pytest.mark.parametrize(
    "bad",
    [
        "mongodb://",
        "mongodb://host:port/db",
        "mongodb://host/a b",
        "mongodb://host/db?nonsense=1",
        "mongodb://user:pa@ss:word@host/db",
        "mongodb://us/er:word@host/db",
        "mongodb://user:word@host/db?w=0",
    ],
)
def test_a_wrong_url_is_refused_at_once_and_shows_no_password(bad: str) -> None:
    with pytest.raises(WrongCall) as error:
        open_url(bad)

    assert ":word" not in str(error.value)


def test_no_message_of_a_store_has_a_password_in_it(open_store: Callable[[str], MongoPersister]) -> None:
    store = open_store(f"mongodb://peter:hunter2@127.0.0.1:{free_port()}/db?serverSelectionTimeoutMS=50")

    with pytest.raises(StoreAway) as error:
        store.count()

    for text in (str(error.value), repr(store), store.url, repr(SkunkQueue("demo", store.target.secret))):
        assert "hunter2" not in text
        assert "peter" not in text


# -- when it fails ---------------------------------------------------------------------------------------------------


def test_a_server_that_is_not_there_is_away_for_every_verb(open_store: Callable[[str], MongoPersister]) -> None:
    store = open_store(f"mongodb://127.0.0.1:{free_port()}/db?serverSelectionTimeoutMS=50")
    claim = object()
    verbs: list[Callable[[], object]] = [
        lambda: store.claim([want()], now=NOW, until=LATE),
        lambda: store.commit([(claim, Outcome.started())], now=NOW),  # type: ignore[list-item]
        lambda: store.cancel(["1"], now=NOW),
        lambda: store.get(["1"]),
        lambda: store.find(Filter(), now=NOW),
        lambda: store.beat("w", "", until=LATE),
        lambda: store.purge(now=NOW),
        store.offset,
    ]

    for verb in verbs:
        with pytest.raises(StoreAway):
            verb()
    began = time.monotonic()
    store.wait([WorkKey("demo", "foo")], 0.3)
    assert 0.2 < time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("code", "text", "wanted"),
    [
        (10107, "not primary", StoreAway),
        (91, "shutting down", StoreAway),
        (1, "unexpected EOF", StoreAway),
        (1, "dial tcp 127.0.0.1:5432: connect: connection refused", StoreAway),
        (1, "the database system is not yet accepting connections", StoreAway),
        (1, "the database system is shutting down", StoreAway),
        (1, "terminating connection because of crash of another server process", StoreAway),
        (1, "sorry, too many clients already", StoreAway),
        (1, "read tcp 127.0.0.1:5432: i/o timeout", StoreAway),
        (8, "timeout: context deadline exceeded", StoreAway),
        (1, "canceling statement due to lock timeout", StoreAway),
        (16908292, "deadlock detected", StoreAway),  # FerretDB 2, a packed 40P01
        (16777220, "could not serialize access due to concurrent update", StoreAway),  # 40001
        (16908293, "terminating connection due to administrator command", StoreAway),  # 57P01
        (1, "cannot execute INSERT in a read-only transaction", StoreFull),
        (14031, "Out of disk space", StoreFull),
        (1, "could not extend file: No space left on device", StoreFull),
        (10334, "BSONObj size is invalid", StoreRefused),
        (18, "Authentication failed.", StoreError),
        (13, "not authorized on db to execute command", StoreError),
        (9, "Failed to parse", StoreError),
    ],
)
def test_an_error_of_the_server_is_the_one_of_ours_that_it_means(
    code: int, text: str, wanted: type[StoreError]
) -> None:
    assert type(of_code("mongodb://here/db", code, text)) is wanted


@pytest.mark.parametrize("is_there", [False, True], ids=["the server is away", "the server is there"])
def test_an_error_that_nobody_knows_concerns_one_run_only_if_the_server_answers_a_simple_question(
    store: MongoPersister, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    """Else a pool would fail a run for good because its server was just starting."""
    store.put([sealed(1)])
    claim = take_one(store)
    collection = type(store._link.runs)

    def fail(*args: object, **options: object) -> object:
        raise OperationFailure("something that no release has said before", 1)

    monkeypatch.setattr(collection, "bulk_write", fail)
    if not is_there:
        monkeypatch.setattr(collection, "find_one", fail)
    with pytest.raises(StoreError, match="no release has said") as error:
        store.commit([(claim, Outcome.complete(b""))], now=NOW)

    assert type(error.value) is (StoreError if is_there else StoreAway)


def test_a_body_that_no_document_holds_is_refused_and_the_others_are_put(store: MongoPersister) -> None:
    batch = [sealed(1), sealed(2, body=b"x" * 16_800_000), sealed(3)]

    with pytest.raises(StoreRefused) as error:
        put(store, batch)

    assert list(error.value.refused) == [sealed(2).id]
    assert set(store.get(each.id for each in batch)) == {sealed(1).id, sealed(3).id}


def test_body_and_value_together_may_be_too_much_for_a_document(store: MongoPersister) -> None:
    """Each is within the limits; then the outcome is refused, and a failure can be written instead."""
    store.put([sealed(1, body=b"x" * 9_000_000), sealed(2)])
    claims = take(store)

    with pytest.raises(StoreRefused, match="holds 16 MB"):
        store.commit([(claim, Outcome.complete(b"y" * 9_000_000)) for claim in claims[:1]], now=NOW)

    assert store.commit([(claims[0], Outcome.failed("too large"))], now=NOW) == {claims[0].id}
    assert store.commit([(claims[1], Outcome.complete(b"y" * 9_000_000))], now=NOW) == {claims[1].id}


def test_a_newer_layout_is_refused_with_a_sentence(store: MongoPersister, url: str) -> None:
    store.count()
    with client_of(url) as client:
        client.get_default_database().store.update_one({"_id": "schema"}, {"$set": {"version": 2}})

    with closing(open_url(url)) as older, pytest.raises(StoreVersion, match="install a newer SkunkQueue"):
        older.count()


def test_a_database_that_is_dropped_while_it_is_used_gets_its_indexes_again(store: MongoPersister, url: str) -> None:
    """As a person does who wants to begin anew. Pools look at each purge; without its index a key would hold nobody."""
    store.put([sealed(1, unique="key")])
    with client_of(url) as client:
        client.drop_database(client.get_default_database())
        for n in (2, 3):
            store.put([sealed(n, unique="key")])
        store.purge(now=NOW)
        left_out = set(client.get_default_database().runs.index_information())
        store.cancel([sealed(3).id], now=NOW)

        store.purge(now=NOW)  # no two runs hold the key any longer

        made = set(client.get_default_database().runs.index_information())
    assert (left_out & INDEXES, made & INDEXES) == (INDEXES - {"key", "expiring"}, INDEXES)
    assert store.put([sealed(4, unique="key")]) == [sealed(2).id]


INDEXES = {RIPE, *PARTIAL}


# -- lost replies ----------------------------------------------------------------------------------------------------


@pytest.fixture
def proxy(shared_mongodb: str) -> Iterator[CuttingProxy]:
    if "127.0.0.1" not in shared_mongodb:
        pytest.skip("the server is not on this machine")
    with CuttingProxy(int(shared_mongodb.rstrip("/").rpartition(":")[2])) as made:
        yield made


def test_a_verb_whose_reply_is_lost_can_be_repeated(
    store: MongoPersister, proxy: CuttingProxy, open_store: Callable[[str], MongoPersister]
) -> None:
    """By the store itself or by its caller: nothing is done twice, and nothing is lost."""
    flaky = open_store(f"mongodb://127.0.0.1:{proxy.port}/{store.target.dbname}")
    flaky.count()
    flaky.warnings()

    def losing(call: Callable[[], object], replies: int = 0) -> object:
        cuts = proxy.cuts
        proxy.cut_after(replies)
        for _ in range(5):
            try:
                found = call()
                assert proxy.cuts > cuts
                return found
            except StoreAway:
                continue
        raise AssertionError("it stays away")

    batch = [sealed(n) for n in range(4)]
    assert losing(lambda: flaky.put(batch)) == [each.id for each in batch]
    assert sum(store.count().values()) == 4
    repeated = want("A", limit=2)._replace(repeated=True)
    for replies in range(2):  # of the look, of the taking
        claims = losing(lambda: flaky.claim([repeated], now=NOW, until=LATE), replies)
        assert {claim.id for claim in claims} == {sealed(0).id, sealed(1).id}  # type: ignore[attr-defined]
    outcomes = [(claim, Outcome.complete(b"")) for claim in flaky.claim([repeated], now=NOW, until=LATE)]
    assert losing(lambda: flaky.extend([claim for claim, _ in outcomes], until=LATE)) == {batch[0].id, batch[1].id}
    assert losing(lambda: flaky.commit(outcomes, now=NOW)) == {batch[0].id, batch[1].id}
    assert {claim.lapses for claim, _ in outcomes} == {0}
    losing(lambda: flaky.cancel([batch[2].id], now=NOW))
    assert record_of(store, batch[2].id).state == State.CANCELLED
    losing(lambda: flaky.reopen([batch[2].id], now=NOW))
    assert record_of(store, batch[2].id).state == State.QUEUED
    losing(lambda: flaky.beat("w", "about", until=LATE))
    assert store.workers(now=NOW) == {"w": "about"}
    assert losing(lambda: flaky.get([batch[3].id])) == store.get([batch[3].id])


# -- processes -------------------------------------------------------------------------------------------------------


def test_a_forked_process_opens_its_own_connection(store: MongoPersister) -> None:
    store.put([sealed(1)])
    waiter = threading.Thread(target=store.wait, args=([RunKey(sealed(1).id)], 0.5))
    waiter.start()
    pid = os.fork()
    if pid == 0:
        try:
            store.put([sealed(2)])
            os._exit(0 if len(take(store)) == 2 else 1)
        except BaseException:
            os._exit(2)

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    waiter.join()
    assert store.count() == {("demo", "foo", "running"): 2}


@pytest.mark.parametrize("is_waited_for", [False, True])
def test_a_closed_store_leaves_no_thread_and_no_connection(url: str, is_waited_for: bool) -> None:
    """A wait that is under way ends, and does not open it again."""
    before = set(threading.enumerate())
    store = open_url(url)
    store.put([sealed()])
    store.wait([WorkKey("demo", "foo")], 0.01)
    if is_waited_for:
        threading.Thread(target=store.wait, args=([WorkKey("demo", "bar")], 1000)).start()
        while not store._notifier._waits:
            time.sleep(0.001)
        time.sleep(0.1)  # for the first of its looks

    store.close()

    end = time.monotonic() + 10
    while set(threading.enumerate()) - before and time.monotonic() < end:
        time.sleep(0.05)
    assert not set(threading.enumerate()) - before
    assert store._link._client is None


def test_the_offset_is_how_far_the_servers_clock_is_ahead(store: MongoPersister) -> None:
    """It is on this machine, so not at all; it counts milliseconds."""
    assert abs(store.offset() or 0.0) < 0.05


# -- a transaction of the user's own ---------------------------------------------------------------------------------


def test_a_session_that_is_in_no_transaction_is_refused(store: MongoPersister, url: str) -> None:
    with client_of(url) as client, client.start_session() as session:
        with pytest.raises(WrongCall, match="start_transaction"):
            store.put([sealed()], via=session)
        session.start_transaction()
        with pytest.raises(WrongCall, match="unique key"):
            store.put([sealed(unique="key")], via=session)
        if not client.admin.command("isMaster").get("setName"):
            with pytest.raises(WrongCall, match="has no transactions"):
                store.put([sealed()], via=session)

    assert store.count() == {}
