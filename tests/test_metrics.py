"""Metrics over HTTP: what a store tells of its routes, what a pool counts, and peers that mean no good."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from pools import LIMIT, until
from prometheus_client.parser import text_string_to_metric_families
from test_cli import Skunq

from skunkqueue import SkunkQueue
from skunkqueue.distribution import pip_install, with_extra
from skunkqueue.errors import SkunkError, StoreAway
from skunkqueue.metrics import http, runs, serving
from skunkqueue.metrics.http import Address, Answer
from skunkqueue.metrics.pages import PoolPages, StorePages
from skunkqueue.metrics.runs import RunCounts
from skunkqueue.metrics.serving import beside
from skunkqueue.persistence.memory import MemoryPersister
from skunkqueue.testing.makers import sealed, take
from skunkqueue.worker import LogEntry

HERE = Address("127.0.0.1", 0)
LABELS = ("queue", "route", "job", "outcome", "state", "le")


class Site:
    """Pages that are served, as a monitor sees them."""

    def __init__(self, where: Address) -> None:
        self.where = where

    def get(self, path: str, status: int = 200) -> str:
        try:
            with urlopen(f"http://{self.where}{path}", timeout=LIMIT) as answer:
                assert answer.status == status
                return answer.read().decode()
        except HTTPError as error:
            with error:
                assert error.code == status, error.read()
                return error.read().decode()

    def metrics(self) -> dict[str, dict[tuple[str, ...], float]]:
        """By name, the values by labels."""
        found: dict[str, dict[tuple[str, ...], float]] = {}
        for family in text_string_to_metric_families(self.get("/metrics")):
            for sample in family.samples:
                labels = tuple(sample.labels[name] for name in LABELS if name in sample.labels)
                found.setdefault(sample.name, {})[labels] = sample.value
        return found

    def connect(self) -> socket.socket:
        return socket.create_connection((self.where.host, self.where.port), timeout=LIMIT)


@pytest.fixture
def serve() -> Iterator[Callable[[Any], Site]]:
    """Serves pages until the end of the test."""
    with ExitStack() as stack:
        yield lambda pages: Site(stack.enter_context(beside(pages, HERE)))


@pytest.fixture
def store() -> MemoryPersister:
    """With runs in every state on one route; times are this process's."""
    store, now = MemoryPersister("metrics"), time.time()
    store.put([sealed(number, due=now - 100 + number) for number in range(6)])
    store.put([sealed(10, due=now + 600), sealed(11, queue="other", route="bar", due=now)])
    take(store, now=now, limit=1)
    store.cancel([sealed(5).id], now=now)
    store.beat("one", json.dumps({"queue": "demo", "routes": ["foo"], "running": ["1"]}), until=now + 600)
    store.beat("two", json.dumps({"queue": "demo", "routes": ["idle"], "running": []}), until=now + 600)
    return store


# -- a store ---------------------------------------------------------------------------------------------------------


def test_prometheus_reads_what_the_store_tells_of_each_route(store: MemoryPersister, serve: Any) -> None:
    found = serve(StorePages(store).pages()).metrics()

    assert found["skunkqueue_store_up"] == {(): 1}
    assert found["skunkqueue_queued"] == {("demo", "foo"): 4, ("demo", "idle"): 0, ("other", "bar"): 1}
    assert found["skunkqueue_scheduled"]["demo", "foo"] == 1
    assert found["skunkqueue_running"]["demo", "foo"] == 1
    assert found["skunkqueue_oldest_seconds"]["demo", "foo"] == pytest.approx(99, abs=5)
    assert found["skunkqueue_ended"]["demo", "foo", "cancelled"] == 1
    assert found["skunkqueue_workers"]["demo", "idle"] == 1
    assert found["skunkqueue_busy_workers"] == {("demo", "foo"): 1, ("demo", "idle"): 0, ("other", "bar"): 0}


def test_an_autoscaler_reads_numbers_of_each_route(store: MemoryPersister, serve: Any) -> None:
    site = serve(StorePages(store, "demo").pages())

    found = json.loads(site.get("/routes.json"))["routes"]
    [foo] = json.loads(site.get("/routes.json?queue=demo&route=foo"))["routes"]
    [none] = json.loads(site.get("/routes.json?queue=demo&route=none"))["routes"]

    assert [(each["queue"], each["route"]) for each in found] == [("demo", "foo"), ("demo", "idle")]
    assert (foo["queued"], foo["scheduled"], foo["running"], foo["open"], foo["workers"]) == (4, 1, 1, 5, 1)
    assert (none["queued"], none["oldest_seconds"]) == (0, 0)
    assert json.loads(site.get("/routes.json?queue=none"))["routes"] == []


def test_the_store_is_asked_once_in_a_while_however_many_ask(store: MemoryPersister, serve: Any) -> None:
    asked: list[float] = []
    count = store.count
    store.count = lambda: asked.append(0.0) or count()  # type: ignore[method-assign, func-returns-value]
    site = serve(StorePages(store, fresh=600).pages())

    with_threads(lambda: site.get("/metrics"), 8)
    site.get("/routes.json")

    assert len(asked) == 1


def with_threads(do: Callable[[], object], count: int) -> None:
    threads = [threading.Thread(target=do) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)


def test_a_store_that_is_away_is_told_so_until_it_is_back(store: MemoryPersister, serve: Any) -> None:
    count = store.count
    site = serve(StorePages(store, fresh=0).pages())

    store.count = away  # type: ignore[method-assign]
    assert site.metrics() == {"skunkqueue_store_up": {(): 0}}
    assert site.get("/readyz", 503) == "the server is away\\x1b[31m\n"
    assert site.get("/routes.json", 503)
    assert site.get("/healthz") == "ok\n"

    store.count = count  # type: ignore[method-assign]
    assert site.get("/readyz") == "ok\n"


def away() -> Any:
    raise StoreAway("the server is away\x1b[31m")


def test_a_store_that_hangs_holds_up_nothing_else(
    store: MemoryPersister, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()
    monkeypatch.setattr(StorePages, "_survey", lambda self: goes_on.wait(LIMIT) and [])
    pages = StorePages(store, fresh=0)
    pages._surveyor._patience = 0.2
    site = serve(pages.pages())

    assert "has not answered within 0.2 s" in site.get("/readyz", 503)
    assert site.get("/healthz") == "ok\n"
    goes_on.set()
    until(lambda: is_ready(site))


def is_ready(site: Site) -> bool:
    try:
        return site.get("/readyz") == "ok\n"
    except AssertionError:
        return False


# -- a pool ----------------------------------------------------------------------------------------------------------


def entry(what: str, job: str = "add", took: float | None = 0.02, worker: str = "foo.1") -> LogEntry:
    return LogEntry(what, worker, "1", job, took)


def test_a_pool_counts_how_its_runs_ended_and_how_long_they_took(serve: Any) -> None:
    pages = PoolPages("demo")
    see = pages.counts.see
    site = serve(pages.pages())
    assert site.get("/readyz", 503) == "no worker has started yet\n"

    for seconds in (0.0005, 0.02, 0.02, 7200.0):
        see(entry("finished", took=seconds))
    for what in ("failed", "retries", "handed back", "refused", "took", "started", "died"):
        see(entry(what, took=0.2))
    see(entry("finished", worker="foo.bar.2", job='a"\n\\b'))
    found = site.metrics()

    ended = {outcome: n for (_, route, _, outcome), n in found["skunkqueue_runs_total"].items() if route == "foo"}
    assert ended == {"succeeded": 4, "failed": 1, "retried": 1, "handed_back": 1, "refused": 1}
    assert found["skunkqueue_runs_total"]["demo", "foo.bar", 'a"\n\\b', "succeeded"] == 1
    assert found["skunkqueue_run_seconds_count"]["demo", "foo", "add"] == 6
    assert found["skunkqueue_run_seconds_sum"]["demo", "foo", "add"] == pytest.approx(7200.4405)
    buckets = {key[-1]: n for key, n in found["skunkqueue_run_seconds_bucket"].items() if key[1] == "foo"}
    assert (buckets["0.001"], buckets["0.05"], buckets["0.5"], buckets["1800.0"], buckets["+Inf"]) == (1, 3, 5, 5, 6)
    assert found["skunkqueue_worker_deaths_total"] == {("demo", "foo"): 1}
    assert site.get("/readyz") == "ok\n"

    see(LogEntry("store away"))
    assert site.get("/readyz", 503) == "the store is away\n"
    see(LogEntry("store back"))
    assert site.get("/readyz") == "ok\n"


def test_jobs_beyond_number_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "MOST", 3)
    counts = RunCounts()

    for number in range(10):
        counts.see(entry("finished", job=f"job-{number}"))
    counts.see(entry("finished", job="job-1"))

    assert {key.job: n for (key, _), n in counts.outcomes().items()} == {
        "job-0": 1, "job-1": 2, "job-2": 1, runs.OTHER: 7,
    }  # fmt: skip


# -- peers that mean no good -----------------------------------------------------------------------------------------


async def page(query: Any) -> Answer:
    return Answer.json(dict(query))


async def huge(query: Any) -> Answer:
    return Answer(b"x" * (32 << 20))


async def broken(query: Any) -> Answer:
    raise ZeroDivisionError("a secret")


PAGES = {"/page": page, "/huge": huge, "/broken": broken}


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /page?a=1 HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"GET /page HTTP/1.0\r\n\r\n", 200),
        (b"GET / HTTP/1.0\r\n\r\n", 200),
        (b"GET /../etc/passwd HTTP/1.0\r\n\r\n", 404),
        (b"GET http://[::1 HTTP/1.0\r\n\r\n", 400),
        (b"POST /page HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"GET /page HTTP/2\r\n\r\n", 405),
        (b"GET /broken HTTP/1.1\r\n\r\n", 500),
        (b"\x16\x03\x01\xff\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", 400),
    ],
    ids=repr,
)
def test_every_request_gets_an_answer_and_the_end_of_its_connection(serve: Any, request_: bytes, status: int) -> None:
    site = serve(PAGES)

    with site.connect() as peer:
        peer.sendall(request_)
        told = b""
        try:
            while data := peer.recv(4096):
                told += data
        except ConnectionResetError:  # it was not read to its end
            assert status == 400

    assert told.startswith(f"HTTP/1.1 {status} ".encode()) or (status == 400 and not told)
    assert b"secret" not in told
    assert site.get("/page?a=2") == '{"a": "2"}\n'


def test_head_gets_the_head(serve: Any) -> None:
    with serve(PAGES).connect() as peer, peer.makefile("rb") as told:
        peer.sendall(b"HEAD /page HTTP/1.1\r\n\r\n")

        assert told.read().endswith(b"Connection: close\r\n\r\n")


def test_slow_and_silent_peers_hold_up_nobody(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MOST_PEERS", 8)
    site = serve(PAGES)

    with ExitStack() as stack:
        peers = [stack.enter_context(site.connect()) for _ in range(30)]
        for peer in peers[::2]:
            peer.sendall(b"GET /pa")
        greedy = stack.enter_context(site.connect())
        greedy.sendall(b"GET /huge HTTP/1.1\r\n\r\n")  # and takes nothing of it

        assert site.get("/page?a=1") == '{"a": "1"}\n'
        assert peers[0].recv(1) == b""  # those that came first had to go


def test_a_peer_that_sends_nothing_or_takes_nothing_is_left_after_a_while(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers: list[http.Server] = []
    monkeypatch.setattr(http, "PATIENCE", 0.2)
    monkeypatch.setattr(serving, "Server", lambda pages: servers.append(http.Server(pages)) or servers[-1])
    site = serve(PAGES)

    with site.connect() as silent, site.connect() as greedy:
        greedy.sendall(b"GET /huge HTTP/1.1\r\n\r\n")
        assert silent.recv(1) == b""
        until(lambda: not servers[0]._peers)

        assert received(greedy) < 32 << 20


def received(peer: socket.socket) -> int:
    """How many bytes there are until the end of the connection."""
    size = 0
    with suppress(ConnectionResetError):
        while data := peer.recv(1 << 20):
            size += len(data)
    return size


def test_an_address_in_use_is_told_in_a_sentence(serve: Any) -> None:
    site = serve(PAGES)

    with pytest.raises(SkunkError, match=f"cannot listen on {site.where}: "), beside(PAGES, site.where):
        pass


def test_an_address_is_read_and_written() -> None:
    assert [str(Address.parse(text)) for text in ("127.0.0.1:9191", "[::1]:80", ":0")] == [
        "127.0.0.1:9191", "[::1]:80", ":0",
    ]  # fmt: skip
    assert Address.parse("[::1]:80").host == "::1"


# -- the commands ----------------------------------------------------------------------------------------------------


@pytest.fixture
def skunq(tmp_path: Path) -> Iterator[Skunq]:
    skunq = Skunq(tmp_path)
    (tmp_path / "log").touch()
    yield skunq


def site_of(skunq: Skunq) -> Site:
    """The site that the program's log names."""
    until(lambda: "serving http://" in skunq.log, message=f"it does not serve: {skunq.log}")
    host, _, port = skunq.log.partition("serving http://")[2].partition("/")[0].rpartition(":")
    return Site(Address(host, int(port)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_skunq_metrics_serves_until_a_signal(skunq: Skunq, number: int) -> None:
    program = skunq.start("metrics", "--listen", "127.0.0.1:0", "--fresh", "0")
    try:
        site = site_of(skunq)
        assert "there is no file" in site.get("/readyz", 503)  # and looking makes none
        assert not (skunq.folder / "runs.db").exists()
        with closing(SkunkQueue("demo", skunq.url)) as queue:
            queue.store.put([sealed(1)])
            assert site.metrics()["skunkqueue_queued"] == {("demo", "foo"): 1}

        with site.connect():  # a peer that waits does not hold up the end
            program.send_signal(number)
            assert program.wait(LIMIT) == 0
    finally:
        program.kill()
        program.wait(LIMIT)


def test_skunq_work_serves_what_its_pool_counts(skunq: Skunq) -> None:
    (skunq.folder / "shop.py").write_text(
        "from skunkqueue import SkunkQueue\n"
        "queue = SkunkQueue('demo')\n"
        "@queue.event\n"
        "def add(a, b):\n"
        "    return a + b\n"
        "if __name__ == '__main__':\n"
        "    import shop\n"
        "    [run.wait(60) for run in (shop.add.fire(1, 2), shop.add.fire(3, 4))]\n"
    )
    program = skunq.start("work", "-q", "demo", "--metrics", "127.0.0.1:0")
    try:
        site = site_of(skunq)
        until(lambda: is_ready(site))
        subprocess.run([sys.executable, "shop.py"], cwd=skunq.folder, env=skunq.env, check=True, timeout=2 * LIMIT)

        found = until(lambda: ended_twice(site))

        assert found["skunkqueue_run_seconds_count"] == {("demo", "default", "shop:add"): 2}
        os.kill(program.pid, signal.SIGTERM)
        assert program.wait(LIMIT) == 0
    finally:
        program.kill()
        program.wait(LIMIT)


def ended_twice(site: Site) -> Any:
    found = site.metrics()
    is_so = found.get("skunkqueue_runs_total") == {("demo", "default", "shop:add", "succeeded"): 2}
    return found if is_so else None


def test_a_wrong_address_gets_one_sentence(skunq: Skunq) -> None:
    for command in (["metrics", "--listen"], ["work", "-q", "demo", "--metrics"]):
        skunq(*command, "nowhere", code=2)
        assert "where to listen is HOST:PORT, like 127.0.0.1:9191" in skunq.complaint
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        skunq("metrics", "--listen", where, code=1)
        assert skunq.complaint.startswith(f"Error: cannot listen on {where}: ")
        skunq("work", "-q", "demo", "--metrics", where, code=1)
        assert f"Error: cannot listen on {where}: " in skunq.complaint


def test_without_prometheus_client_one_is_told_what_to_install(skunq: Skunq) -> None:
    (skunq.folder / "prometheus_client.py").write_text("")
    code = (
        "import sys, importlib.util; find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'prometheus_client' else find(name, *a)\n"
        "from skunkqueue.cli import main; main(['metrics'])"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], env=skunq.env, capture_output=True, text=True, timeout=2 * LIMIT
    )

    assert (said.returncode, said.stderr) == (
        2, f"Error: metrics need prometheus-client: {pip_install(with_extra('metrics'))}\n",
    )  # fmt: skip
