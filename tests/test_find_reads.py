"""Looking at runs reads what it shows: no body and no result of a run that is not returned, however large they are."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from skunkqueue.envelope import DAY, FINDABLE, Envelope, Filter, Outcome, State
from skunkqueue.persistence import Persister
from skunkqueue.persistence.sqlite import open_url as open_sqlite
from skunkqueue.testing.makers import NOW, id_at, take

LARGE = 100_000
EACH = 12


def fill(store: Persister, *, size: int = LARGE, routes: tuple[str, ...] = ("foo",)) -> None:
    """Some runs in each state, with large bodies, results and errors."""
    number = 0

    def envelopes(due: float, route: str) -> list[Envelope]:
        nonlocal number
        number += EACH
        ids = [id_at(NOW, n) for n in range(number - EACH, number)]
        return [Envelope(id, "demo", route, due, b"x" * size, None, None, DAY) for id in ids]

    for route in routes:
        for outcome in (Outcome.complete(b"y" * size), Outcome.failed("no", value=b"y" * size)):
            store.put(envelopes(NOW, route))
            claims = take(store, f"{outcome.kind}-{route}", route, limit=EACH)
            store.commit([(claim, outcome) for claim in claims], now=NOW)
        cancelled = envelopes(NOW, route)
        store.put(cancelled)
        store.cancel([each.id for each in cancelled], now=NOW)
        store.put(envelopes(NOW, route))
        assert len(take(store, f"running-{route}", route, limit=EACH)) == EACH
        store.put([*envelopes(NOW, route), *envelopes(NOW + 600, route)])


FILTERS = [
    Filter(),
    Filter("demo", "foo"),
    *(Filter("demo", None, state) for state in FINDABLE),
    Filter("demo", "foo", State.RUNNING),
]


@pytest.fixture
def opened(request: pytest.FixtureRequest) -> Iterator[tuple[Any, Persister]]:
    from skunkqueue.persistence.redis import open_url

    server = request.getfixturevalue("shared_redis")
    with server.client() as client:
        client.flushall()
    with closing(open_url(server.url)) as store:
        yield server, store


class Monitor:
    """The commands that a Redis executes, those of scripts too, while it is entered."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.commands: list[list[str]] = []

    def __enter__(self) -> Monitor:
        # Without a timeout: nothing to read for some seconds is no fault of the server.
        self.client = redis.Redis(unix_socket_path=self.server.socket_path, socket_timeout=None)
        self.monitor = self.client.monitor()
        self.monitor.__enter__()
        self.thread = threading.Thread(target=self._read)
        self.thread.start()
        return self

    def _read(self) -> None:
        for found in self.monitor.listen():
            words = found["command"].split(" ")
            if words[0] == "ECHO":
                return
            self.commands.append(words)

    def __exit__(self, *_: object) -> None:
        with self.server.client() as client:
            client.echo("over")
        self.thread.join(10)
        self.monitor.__exit__()
        self.client.close()

    def fields_read(self, key: str) -> set[str]:
        """Which fields of this hash were read."""
        reading = [words[2:] for words in self.commands if words[0] in ("HGET", "HMGET") and words[1] == key]
        assert not any(words[0] in ("HGETALL", "HVALS") and words[1] == key for words in self.commands)
        return {field for fields in reading for field in fields}


@pytest.mark.parametrize("limit", [1, 5])
@pytest.mark.parametrize("which", FILTERS, ids=str)
def test_redis_reads_only_the_runs_that_it_returns(opened: tuple[Any, Persister], which: Filter, limit: int) -> None:
    server, store = opened
    fill(store)

    with Monitor(server) as monitor:
        found = store.find(which, now=NOW, limit=limit)
        again = store.find(which, now=NOW, limit=limit, after=found[-1].id)

    assert len(found) == len(again) == limit
    ids = {record.id for record in (*found, *again)}
    assert monitor.fields_read("skunk:{demo}:run") <= ids
    assert monitor.fields_read("skunk:{demo}:done") <= ids


@pytest.mark.parametrize("state", [State.QUEUED, State.SCHEDULED, State.RUNNING, None])
def test_redis_tells_the_route_of_open_runs_without_their_bodies(
    opened: tuple[Any, Persister], state: State | None
) -> None:
    server, store = opened
    fill(store, routes=("bar", "foo"))
    which = Filter("demo", "foo", state)

    with Monitor(server) as monitor:
        found = store.find(which, now=NOW, limit=3)

    assert {record.envelope.route for record in found} == {"foo"}
    assert monitor.fields_read("skunk:{demo}:run") <= {record.id for record in found}


def test_a_look_at_large_runs_holds_up_nobody(opened: tuple[Any, Persister]) -> None:
    """One script reads no more than some megabytes, also where it must read bodies, or returns them."""
    server, store = opened
    size = 1_000_000
    fill(store, size=size, routes=("bar", "foo"))

    with Monitor(server) as monitor:
        assert len(store.find(Filter("demo", "bar", State.SUCCEEDED), now=NOW, limit=100)) == EACH
        assert len(store.find(Filter(), now=NOW, limit=20)) == 20
        while store.purge(now=NOW + 9 * DAY):
            pass

    assert store.find(Filter("demo", None, State.SUCCEEDED), now=NOW) == []
    assert max(large_reads(monitor)) <= 10  # of a megabyte each; some are not there


def large_reads(monitor: Monitor) -> list[int]:
    """For each script, how many envelopes and results it read."""
    reads = [0]
    for words in monitor.commands:
        if words[0] in ("EVALSHA", "EVAL"):
            reads.append(0)
        if words[0] in ("HGET", "HMGET") and words[1] in ("skunk:{demo}:run", "skunk:{demo}:done"):
            reads[-1] += len(words[2:])
    return reads


def test_verbs_about_many_large_runs_hold_up_nobody(opened: tuple[Any, Persister]) -> None:
    """They go through them some megabytes at a time."""
    server, store = opened
    fill(store, size=1_000_000)
    ids = [record.id for record in store.find(Filter(), now=NOW, limit=1000)]
    waiting = [record.id for record in store.find(Filter(state=State.QUEUED), now=NOW, limit=1000)]

    with Monitor(server) as monitor:
        assert len(store.get(ids)) == len(ids) == 6 * EACH
        assert len(store.get_brief(ids)) == len(ids)
        assert len(store.promote(ids, now=NOW)) == EACH
        assert len(store.cancel(waiting, now=NOW)) == 2 * EACH
        assert len(store.reopen(ids, now=NOW)) == 4 * EACH

    assert 5 < max(large_reads(monitor)) <= 20  # an envelope and a result of each


def test_which_runs_are_open_is_told_without_reading_them(opened: tuple[Any, Persister]) -> None:
    server, store = opened
    fill(store)
    ids = [record.id for record in store.find(Filter(), now=NOW, limit=1000)]

    with Monitor(server) as monitor:
        assert len(store.open_of(ids)) == 3 * EACH

    assert max(large_reads(monitor)) == 0


def bytes_read() -> int:
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


@pytest.mark.parametrize("which", FILTERS, ids=str)
def test_sqlite_reads_only_the_runs_that_it_returns(tmp_path: Path, which: Filter) -> None:
    url = f"sqlite:///{tmp_path}/runs.db"
    with closing(open_sqlite(url)) as store:
        fill(store)
    with closing(open_sqlite(url)) as store:
        store.count()  # open, with nothing of the runs in its cache
        before = bytes_read()

        found = store.find(which, now=NOW, limit=2)

        assert len(found) == 2
        shown = sum(len(record.envelope.body) + len(record.value or b"") for record in found)
        assert bytes_read() - before < shown + 2 * LARGE  # 72 runs have 9 MB


def test_the_measure_sees_what_is_read(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/runs.db"
    with closing(open_sqlite(url)) as store:
        fill(store)
    with closing(open_sqlite(url)) as store:
        before = bytes_read()

        assert len(store.find(Filter(), now=NOW, limit=72)) == 72

        assert bytes_read() - before > 72 * LARGE
