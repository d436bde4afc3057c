"""The cache: what is found again, what is kept how long, who computes, and what happens when its store is away."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pools import LIMIT

from skunkqueue.cache import cacheBuilder, cached
from skunkqueue.cache.key import question_of
from skunkqueue.cache.memory import MemoryCache
from skunkqueue.cache.stores import AnswerStore, KeptAnswer, Place
from skunkqueue.errors import StoreAway, WrongCall


def memory_url(request: pytest.FixtureRequest) -> str:
    return f"memory://{request.node.name}"


def sqlite_url(request: pytest.FixtureRequest) -> str:
    return f"sqlite:////{request.getfixturevalue('tmp_path')}/cache.db"


def redis_url(request: pytest.FixtureRequest) -> str:
    server = request.getfixturevalue("shared_redis")
    with server.client() as client:
        client.flushall()
    return str(server.url)


def mongodb_url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue("shared_mongodb"))


URLS: dict[str, Callable[[pytest.FixtureRequest], str]] = {
    "memory": memory_url,
    "sqlite": sqlite_url,
    "redis": redis_url,
    "mongodb": mongodb_url,
}


@pytest.fixture(params=URLS)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """An empty place of each kind."""
    place = Place(URLS[request.param](request), "GEARMANCACHE", f"t{time.time_ns()}")
    yield place
    if request.param == "mongodb":
        from mongo_servers import client_of

        client = client_of(place.url)
        client[place.dbname].drop_collection(place.collection)
        client.close()


@pytest.fixture
def store(place: Place) -> Iterator[AnswerStore]:
    found = place.open()
    yield found
    found.close()


QUESTION = question_of("name", {"a": 1})
OTHER = question_of("name", {"a": 2})
NOW = float(int(time.time()))


# -- stores ----------------------------------------------------------------------------------------------------------


def test_an_answer_is_kept_until_it_expires(store: AnswerStore) -> None:
    store.put(QUESTION, KeptAnswer(b"one", NOW), expires=NOW + 10_000)
    store.put(QUESTION, KeptAnswer(b"two\0", NOW + 0.25), expires=NOW + 10_000)

    assert store.get(QUESTION.key, now=NOW) == KeptAnswer(b"two\0", NOW + 0.25)
    assert store.get(OTHER.key, now=NOW) is None
    if not type(store).__name__.startswith("Redis"):  # which has a clock of its own
        assert store.get(QUESTION.key, now=NOW + 10_001) is None


def test_an_answer_that_is_forgotten_is_gone(store: AnswerStore) -> None:
    store.put(QUESTION, KeptAnswer(b"one", NOW), expires=NOW + 10_000)
    store.forget(QUESTION.key)

    assert store.get(QUESTION.key, now=NOW) is None


def test_one_at_a_time_may_compute(store: AnswerStore) -> None:
    if isinstance(store, MemoryCache):
        pytest.skip("in one process its threads wait for each other without claims")
    now = time.time()

    assert store.claim(QUESTION.key, "mine", now=now, until=now + 60)
    assert store.claim(QUESTION.key, "mine", now=now, until=now + 60)
    assert not store.claim(QUESTION.key, "yours", now=now, until=now + 60)
    assert store.claim(OTHER.key, "yours", now=now, until=now + 60)
    store.extend(QUESTION.key, "yours", until=now)
    store.release(QUESTION.key, "yours")
    assert not store.claim(QUESTION.key, "yours", now=now, until=now + 60)
    store.release(QUESTION.key, "mine")
    assert store.claim(QUESTION.key, "yours", now=now, until=now + 60)


def test_a_claim_ends_with_its_time(store: AnswerStore) -> None:
    if isinstance(store, MemoryCache):
        pytest.skip("in one process its threads wait for each other without claims")
    now = time.time()
    assert store.claim(QUESTION.key, "dead", now=now, until=now + 0.05)
    time.sleep(0.1)

    now = time.time()
    assert store.claim(QUESTION.key, "mine", now=now, until=now + 0.2)
    store.extend(QUESTION.key, "mine", until=now + 60)
    time.sleep(0.25)
    now = time.time()
    assert not store.claim(QUESTION.key, "yours", now=now, until=now + 60)


def test_servers_expire_answers_themselves(shared_redis: Any, shared_mongodb: str) -> None:
    from mongo_servers import client_of

    for place in (Place(shared_redis.url, "d", "c"), Place(shared_mongodb, "cachetest", "c")):
        store = place.open()
        store.put(QUESTION, KeptAnswer(b"one", NOW), expires=NOW + 1000)
        store.close()

    with shared_redis.client() as redis:
        assert 0 < redis.ttl(f"d:c:{QUESTION.key}") <= 1000
    client = client_of(shared_mongodb)
    indexes = client["cachetest"]["c"].index_information().values()
    assert [index["expireAfterSeconds"] for index in indexes if "expireAfterSeconds" in index] == [0]
    client.drop_database("cachetest")
    client.close()


def test_sqlite_sweeps_what_has_expired(tmp_path: Path) -> None:
    import sqlite3

    place = Place(f"sqlite:////{tmp_path}/cache.db", "d", "answers")
    store = place.open()
    store.put(QUESTION, KeptAnswer(b"old", NOW - 20), expires=NOW - 10)
    store._swept = 0.0  # type: ignore[attr-defined]
    store.put(OTHER, KeptAnswer(b"new", NOW), expires=NOW + 1000)
    store.close()

    with sqlite3.connect(tmp_path / "cache.db") as db:
        assert db.execute("SELECT arguments FROM answers").fetchall() == [("a=2",)]
    db.close()


def test_memory_keeps_the_latest() -> None:
    store = MemoryCache(most=2)
    questions = [question_of("name", {"a": n}) for n in range(3)]
    for question in questions[:2]:
        store.put(question, KeptAnswer(b"", NOW), expires=NOW + 10_000)
    assert store.get(questions[0].key, now=NOW)

    store.put(questions[2], KeptAnswer(b"", NOW), expires=NOW + 10_000)

    assert [store.get(question.key, now=NOW) is not None for question in questions] == [True, False, True]


# -- keys ------------------------------------------------------------------------------------------------------------


def test_the_order_of_arguments_does_not_matter() -> None:
    one = question_of("name", {"a": 1, "b": {"x": [1, 2], "y": None}})
    two = question_of("name", {"b": {"y": None, "x": (1, 2)}, "a": 1})

    assert one == two
    assert one.arguments == "a=1, b={'x': [1, 2], 'y': None}"


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, {"b": 1}),
        ({"a": 1}, {"a": 1.0}),
        ({"a": 1}, {"a": True}),
        ({"a": "1"}, {"a": 1}),
        ({"a": "x, b='y'"}, {"a": "x", "b": "y"}),
        ({"a": [1, [2]]}, {"a": [1, 2]}),
        ({"a": b"x"}, {"a": "x"}),
        ({"a": {1: 2}}, {"a": {"1": 2}}),
    ],
)
def test_different_arguments_have_different_keys(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert question_of("name", one).key != question_of("name", two).key
    assert question_of("name", one).key != question_of("other", one).key


def test_what_cannot_be_compared_is_a_wrong_call() -> None:
    with pytest.raises(WrongCall, match="the argument 'a' of name cannot be told from others: it holds a object"):
        question_of("name", {"a": [object()]})
    deep: list[Any] = []
    for _ in range(200):
        deep = [deep]
    with pytest.raises(WrongCall, match="nested too deeply"):
        question_of("name", {"a": deep})


# -- as in the README ------------------------------------------------------------------------------------------------


def wrapped(place: Place, **options: Any) -> Callable[..., Any]:
    return cacheBuilder(host=place.url, dbname=place.dbname, collection=place.collection, **options)


def test_an_answer_is_computed_once_whatever_the_order_of_arguments(place: Place) -> None:
    calls: list[Any] = []
    cachewrap = wrapped(place)

    class Worker:
        @cachewrap("unique_name", max_days_age=1)
        def task_echo(self, text: str, double: bool = False) -> Any:
            "Echoes the text"
            calls.append(text)
            return [text, {"double": double}]

    first, second = Worker(), Worker()

    assert first.task_echo(text="a", double=True) == ["a", {"double": True}]
    assert second.task_echo(double=True, text="a") == ["a", {"double": True}]
    assert first.task_echo("a") == first.task_echo(text="a", double=False) == ["a", {"double": False}]
    assert calls == ["a", "a"]
    assert Worker.task_echo.__doc__ == "Echoes the text"


def test_another_process_finds_the_answer(place: Place) -> None:
    if place.url.startswith("memory"):
        pytest.skip("memory is one process's")
    code = (
        "import sys; from skunkqueue.cache import cacheBuilder\n"
        "wrap = cacheBuilder(host=sys.argv[1], dbname=sys.argv[2], collection=sys.argv[3])\n"
        "@wrap('name')\ndef f(a): return 'computed'\n"
        "print(f(a=1), f(a=2))\n"
    )

    @wrapped(place)("name")
    def f(a: int) -> str:
        return "kept"

    f(a=1)
    found = subprocess.run(
        [sys.executable, "-c", code, *place], capture_output=True, text=True, timeout=LIMIT, check=True
    )

    assert found.stdout.split() == ["kept", "computed"]


def test_the_washer_sees_a_value_before_it_is_kept(place: Place) -> None:
    @wrapped(place, returnvalue_washer=lambda value: {**value, "washed": True})("name")
    def f() -> Any:
        return {"secret": None}

    assert f() == f() == {"secret": None, "washed": True}


def test_an_old_answer_is_computed_anew_and_serves_where_there_is_nothing_new(place: Place) -> None:
    answers = iter(["first", "second", None, None])

    @wrapped(place)("name", max_days_age=0.3 / 86400)
    def f() -> Any:
        return next(answers)

    assert f() == "first"
    assert f() == "first"
    time.sleep(0.35)
    assert f() == "second"
    time.sleep(0.35)
    assert f() == "second"
    assert f() == "second"
    assert list(answers) == []


def test_nothing_is_not_kept(place: Place) -> None:
    answers = iter([None, "something"])

    @wrapped(place)("name")
    def f() -> Any:
        return next(answers)

    assert f() is None
    assert f() == "something"
    assert f() == "something"


def test_concurrent_misses_compute_once(place: Place) -> None:
    calls: list[int] = []
    found: list[Any] = []
    entered = threading.Event()
    go_on = threading.Event()

    def slow() -> str:
        calls.append(1)
        entered.set()
        assert go_on.wait(LIMIT)
        return "done"

    # One function of one cache, and one of another on the same store, as another process has it.
    functions = [wrapped(place)("name")(slow) for _ in range(1 if place.url.startswith("memory") else 2)]
    threads = [threading.Thread(target=lambda f=f: found.append(f())) for f in functions for _ in range(4)]
    for thread in threads:
        thread.start()
    assert entered.wait(LIMIT)
    time.sleep(0.1)
    go_on.set()
    for thread in threads:
        thread.join(LIMIT)

    assert found == ["done"] * len(threads)
    assert calls == [1]


def test_a_failure_reaches_all_who_wait_and_is_not_kept(place: Place) -> None:
    calls: list[int] = []

    @wrapped(place)("name")
    def f() -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("no")
        return "done"

    with pytest.raises(ValueError, match="no"):
        f()
    assert f() == "done"


@pytest.mark.slow
def test_a_long_computation_keeps_its_claim(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    if place.url.startswith("memory"):
        pytest.skip("in one process its threads wait for each other without claims")
    monkeypatch.setattr("skunkqueue.cache.answers.LEASE", 3.0)
    calls: list[int] = []

    def slow() -> str:
        calls.append(1)
        time.sleep(7.0)
        return "done"

    found: list[Any] = []
    functions = [wrapped(place)("name")(slow) for _ in range(2)]
    threads = [threading.Thread(target=lambda f=f: found.append(f())) for f in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)

    assert found == ["done"] * 2
    assert calls == [1]


def test_a_function_that_calls_itself_alike_does_not_wait_for_itself() -> None:
    depth: list[int] = []

    @cached("memory://itself")
    def f() -> int:
        depth.append(1)
        return f() + 1 if len(depth) == 1 else 1

    assert f() == 2


def test_an_answer_that_cannot_be_kept_is_given(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    lock = threading.Lock()

    @wrapped(place)("name")
    def f() -> Any:
        return lock

    assert f() is lock
    assert "an answer of name cannot be kept" in caplog.text


def test_an_answer_that_cannot_be_read_is_computed_anew(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    @wrapped(place)("name")
    def f(a: int) -> str:
        return "new"

    store = place.open()
    store.put(QUESTION, KeptAnswer(b"damaged", time.time()), expires=time.time() + 1000)

    assert f(a=1) == "new"
    assert "cannot be read" in caplog.text
    store.close()


# -- away ------------------------------------------------------------------------------------------------------------


class Fickle(MemoryCache):
    is_away = False

    def get(self, key: str, *, now: float) -> KeptAnswer | None:
        if self.is_away:
            raise StoreAway("no route")
        return super().get(key, now=now)


def test_a_store_that_is_away_is_left_out_and_said_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = Fickle()
    monkeypatch.setattr("skunkqueue.cache.memory.open_place", lambda place: store)
    monkeypatch.setattr("skunkqueue.cache.answers.PAUSE", 0.0)
    calls: list[int] = []

    @cached("memory://fickle")
    def f() -> str:
        calls.append(1)
        return "done"

    store.is_away = True
    assert [f() for _ in range(3)] == ["done"] * 3
    assert calls == [1] * 3
    store.is_away = False
    assert [f() for _ in range(3)] == ["done"] * 3

    assert caplog.text.count("is away, so answers are computed without it: no route") >= 1
    assert "the cache at memory://fickle is back" in caplog.text
    assert len(calls) <= 4


@pytest.mark.parametrize("url", ["redis://user:secret@127.0.0.1:1/0", "sqlite:////no/such/folder/cache.db"])
def test_a_server_that_is_not_there_costs_no_answer(url: str, caplog: pytest.LogCaptureFixture) -> None:
    @cached(url)
    def f(a: int) -> int:
        return a + 1

    assert [f(a=1), f(a=1)] == [2, 2]
    assert caplog.text.count("is away") == 1
    assert "secret" not in caplog.text


def test_no_mongodb_costs_no_answer(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("pymongo")
    monkeypatch.setattr("skunkqueue.cache.mongodb.TIMEOUT", 200)

    @cacheBuilder(host="mongodb://127.0.0.1:1/")("name")
    def f(a: int) -> int:
        return a + 1

    assert [f(a=1), f(a=1)] == [2, 2]
    assert caplog.text.count("is away") == 1


# -- the Pythonic one ------------------------------------------------------------------------------------------------


def test_cached_finds_an_answer_until_it_is_forgotten(place: Place) -> None:
    calls: list[int] = []

    @cached(place.url, max_age=timedelta(hours=1), name=place.collection)
    def add(a: int, b: int = 2) -> int:
        calls.append(1)
        return a + b

    assert add(1) == add(a=1) == add(b=2, a=1) == 3
    assert len(calls) == 1
    add.forget(1)  # type: ignore[attr-defined]
    assert add(1) == 3
    assert len(calls) == 2


def test_a_method_leaves_self_out_and_can_be_forgotten() -> None:
    calls: list[int] = []

    class Prices:
        @cached("memory://method")
        def of(self, stock: str) -> str:
            calls.append(1)
            return stock.upper()

    assert Prices().of("a") == Prices().of(stock="a") == "A"
    assert calls == [1]
    Prices.of.forget("a")  # type: ignore[attr-defined]
    assert Prices().of("a") == "A"
    assert calls == [1, 1]


def test_a_wrong_call_of_the_function_is_the_functions_own_error() -> None:
    @cached("memory://wrong")
    def f(a: int) -> int:
        return a

    with pytest.raises(TypeError, match="unexpected keyword argument 'b'"):
        f(b=1)  # type: ignore[call-arg]


def test_debug_says_what_happens(capsys: pytest.CaptureFixture[str]) -> None:
    @cacheBuilder(host="memory://debug", DEBUG=1)("name")
    def f(a: int) -> int:
        return a

    f(a=1)
    f(a=1)

    assert capsys.readouterr().err.splitlines() == ["cache: computing name(a=1)", "cache: found name(a=1)"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: cached("mysql://host"), "a cache is at a URL that begins with"),
        (lambda: cached("cache.db"), "a cache is at a URL that begins with"),
        (lambda: cached(max_age=-1), "max_age is a number of seconds from 0 up"),
        (lambda: cacheBuilder(host="memory://", collection='a"b'), "collection is letters"),
        (lambda: cacheBuilder(host="memory://")(""), "cachewrap takes a name"),
        (lambda: cacheBuilder(host="memory://")(print), "cachewrap takes a name"),
        (lambda: cacheBuilder(host="memory://")("n", max_days_age="1"), "number of days"),
        (lambda: cached("memory://")(_asynchronous), "no plain function"),
        (lambda: cached("sqlite://")(len)([]), "names a file"),
    ],
)
def test_a_wrong_call_gets_a_sentence(call: Callable[[], Any], words: str) -> None:
    with pytest.raises(WrongCall, match=words):
        call()


async def _asynchronous() -> None:
    return


def test_the_default_is_mongodb_as_in_the_readme_and_connects_to_nothing() -> None:
    before = threading.active_count()

    cacheBuilder()("unique_name")(len)

    assert threading.active_count() == before


def test_the_log_tells_hits_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "skunkqueue.cache")

    @cached("memory://log", name="name")
    def f(a: int) -> int:
        return a

    f(1)

    assert "computing name(a=1)" in caplog.text
