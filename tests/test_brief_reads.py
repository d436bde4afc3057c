"""Waiting for runs and listing them reads neither bodies nor results that are not shown. Bytes are counted."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from redis_server import CuttingProxy
from test_find_reads import bytes_read

from skunkqueue import Runs, SkunkQueue, WaitTimeout
from skunkqueue.cli.commands import skunq
from skunkqueue.codec import encode_value
from skunkqueue.envelope import Filter, Outcome, State, Want

LARGE = 400_000
EACH = 10


class Counted:
    """A store of each kind, and how many bytes went between it and its data."""

    def __init__(self, url: str, count: Callable[[], int]) -> None:
        self.url = url
        self.count = count


@contextmanager
def sqlite(request: pytest.FixtureRequest, folder: Path) -> Iterator[Counted]:
    yield Counted(f"sqlite:///{folder}/runs.db", bytes_read)


@contextmanager
def redis(request: pytest.FixtureRequest, folder: Path) -> Iterator[Counted]:
    server = request.getfixturevalue("shared_redis")
    with server.client() as client:
        client.flushall()
        yield Counted(server.url, lambda: client.info("stats")["total_net_output_bytes"])


@contextmanager
def mongodb(request: pytest.FixtureRequest, folder: Path) -> Iterator[Counted]:
    """Through a proxy that counts what the server answers."""
    server = request.getfixturevalue("shared_mongodb")
    from mongo_servers import drop, fresh_url
    from pymongo.uri_parser import parse_uri

    host, port = parse_uri(server)["nodelist"][0]
    url = fresh_url(server)
    with CuttingProxy(port) as proxy:
        yield Counted(url.replace(f"{host}:{port}", f"127.0.0.1:{proxy.port}"), lambda: proxy.answered)
    drop(url, lambda name: f"/{name}" in url)


@contextmanager
def fdb(request: pytest.FixtureRequest, folder: Path) -> Iterator[Counted]:
    """Through a proxy too; only the fake's way of speaking can go through one."""
    file = Path(request.getfixturevalue("shared_fdb"))
    from fdb_servers import drop, fresh_name, is_real

    if is_real():
        pytest.skip("a real cluster is not reached through a proxy")
    name = fresh_name()
    head, _, port = file.read_text().rpartition(":")
    with CuttingProxy(int(port)) as proxy:
        counted = folder / "fdb.cluster"
        counted.write_text(f"{head}:{proxy.port}\n")
        yield Counted(f"fdb://{counted}?prefix={name}", lambda: proxy.answered)
    drop(str(file), name)


@pytest.fixture(params=[sqlite, redis, mongodb, fdb], ids=lambda store: store.__name__)
def counted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Counted]:
    with request.param(request, tmp_path) as found:
        yield found


@pytest.fixture(params=[10, LARGE], ids=["small", "large"])
def filled(request: pytest.FixtureRequest, counted: Counted) -> list[str]:
    """Ids of runs that succeeded, that failed, that run and that wait: the ended ones with large values."""
    with SkunkQueue("demo", counted.url, max_payload=10 * LARGE) as queue:
        job = queue.event(len, name="len", routes=["foo"])
        runs = job.fire_many([("x" * request.param,) for _ in range(4 * EACH)])
        claims = queue.store.claim(
            [Want("demo", ("foo",), "w", "t", 3 * EACH)], now=queue.now(), until=queue.now() + 600
        )
        value = encode_value(bytes(LARGE))
        ends = [Outcome.complete(value)] * EACH + [Outcome.failed("no", value=value)] * EACH
        queue.store.commit(list(zip(claims, ends, strict=False)), now=queue.now())
        return [run.id for run in runs]


def handles(queue: SkunkQueue, ids: list[str]) -> Runs[Any]:
    """As somebody has them who did not fire the runs."""
    return Runs([queue.run(id) for id in ids])


def test_a_list_for_people_reads_no_long_value_and_no_body(counted: Counted, filled: list[str]) -> None:
    before = counted.count()

    said = CliRunner().invoke(skunq, ["runs", "--url", counted.url, "-n", "100"], env={"COLUMNS": "200"})

    assert said.output.count("len") == said.output.count("foo") == len(filled)
    assert said.output.count("<long; skunq show prints it>") == EACH
    assert counted.count() - before < 3 * LARGE  # with the modules that it imports; of runs there are 8 MB and more


def test_a_list_for_programs_has_the_values(counted: Counted, filled: list[str]) -> None:
    before = counted.count()

    said = CliRunner().invoke(skunq, ["runs", "--url", counted.url, "-n", "100", "--state", "succeeded", "--json"])

    assert len(said.output) > EACH * LARGE
    assert EACH * LARGE < counted.count() - before < 2 * EACH * LARGE + LARGE


@pytest.mark.parametrize("state", [None, State.SUCCEEDED, State.QUEUED])
def test_a_short_list_reads_only_what_it_shows(counted: Counted, filled: list[str], state: State | None) -> None:
    with SkunkQueue("demo", counted.url) as queue:
        queue.store.count()
        before = counted.count()

        assert len(queue.store.find(Filter("demo", "foo", state), now=queue.now(), limit=2)) == 2

        assert counted.count() - before < 2 * 2 * LARGE + LARGE


def test_handles_are_made_and_waited_for_without_their_bodies(counted: Counted, filled: list[str]) -> None:
    with SkunkQueue("demo", counted.url) as queue:
        before = counted.count()
        runs = handles(queue, filled[2 * EACH :])

        with pytest.raises(WaitTimeout):
            runs.wait(2.5)

        assert [str(run.state) for run in runs] == ["running"] * EACH + ["queued"] * EACH
        assert counted.count() - before < LARGE


def test_runs_are_awaited_without_their_bodies(counted: Counted, filled: list[str]) -> None:
    async def awaited(runs: Runs[Any]) -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(runs._awaited(), 2.5)

    with SkunkQueue("demo", counted.url) as queue:
        before = counted.count()

        asyncio.run(awaited(handles(queue, filled[2 * EACH :])))

        assert counted.count() - before < LARGE


def test_what_ends_while_it_is_waited_for_is_read_once(counted: Counted, filled: list[str]) -> None:
    with SkunkQueue("demo", counted.url) as queue, SkunkQueue("demo", counted.url) as other:
        left = filled[3 * EACH :]
        runs = handles(queue, left)
        claims = other.store.claim([Want("demo", ("foo",), "w", "u", EACH)], now=other.now(), until=other.now() + 600)
        ends = [(claim, Outcome.complete(encode_value(bytes(LARGE)))) for claim in claims]
        threads = [
            threading.Timer(0.3 * n, other.store.commit, [[end]], {"now": other.now()}) for n, end in enumerate(ends)
        ]
        before = counted.count()

        for thread in threads:
            thread.start()
        values = runs.wait(30)

        assert counted.count() - before < 3 * EACH * LARGE  # SQLite reads again what was written, for its file
        for thread in threads:
            thread.join()
        assert [len(value) for value in values] == [LARGE] * EACH


def test_the_measure_sees_what_is_read(counted: Counted, filled: list[str]) -> None:
    with SkunkQueue("demo", counted.url) as queue:
        before = counted.count()

        assert len(queue.store.find(Filter(), now=queue.now())) == len(filled)

        assert counted.count() - before > 2 * EACH * LARGE
