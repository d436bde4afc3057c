"""An id that is no text is shown, run and purged like any other, and stops no neighbour."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest

from skunkqueue.cli import main
from skunkqueue.envelope import DAY, Filter, Outcome
from skunkqueue.persistence.redis import open_url as open_redis
from skunkqueue.persistence.sqlite import open_url as open_sqlite
from skunkqueue.testing.makers import NOW, sealed, take

FULL = ("--columns", "full-id,state")
IDS = [b"\xff\xfe", b"00\xc3", b"\x1b[31m", "naïve 🦨".encode(), b""]


def on_sqlite(request, id, as_blob):
    url = f"sqlite:///{request.getfixturevalue('tmp_path')}/runs.db"
    store = open_sqlite(url)
    store.put([sealed(n) for n in (1, 2, 3)])
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as db:
        db.execute(f"UPDATE run SET id = {'?' if as_blob else 'CAST(? AS TEXT)'} WHERE id = ?", (id, sealed(2).id))
    return url, store


def on_redis(request, id, _):
    server = request.getfixturevalue("shared_redis")
    with server.client() as client:
        client.flushall()
        store = open_redis(server.url)
        store.put([sealed(n) for n in (1, 2, 3)])
        client.hset("skunk:{demo}:run", id, client.hget("skunk:{demo}:run", sealed(2).id))
        client.hdel("skunk:{demo}:run", sealed(2).id)
        client.zrem("skunk:{demo}:ripe:foo", sealed(2).id)
        client.zadd("skunk:{demo}:ripe:foo", {id: NOW})
        (page,) = client.keys("skunk:{demo}:page:*")
        client.append(page, id + b"\n")
    return server.url, store


@pytest.fixture(params=["sqlite text", "sqlite blob", "redis"])
def damaged(request, id):
    make = on_redis if request.param == "redis" else on_sqlite
    url, store = make(request, id, request.param == "sqlite blob")
    yield url, store
    store.close()


@pytest.mark.parametrize("id", IDS[:-1])
def test_it_is_listed_by_the_command_line(damaged, capsys):
    url, _ = damaged

    for command in (["runs", *FULL], ["runs", "--json"], ["runs", "--state", "queued", "-r", "foo", *FULL]):
        with pytest.raises(SystemExit) as end:
            main([*command, "-q", "demo", "--url", url])
        said = capsys.readouterr().out
        assert end.value.code == 0
        assert {sealed(1).id, sealed(3).id} <= set(said.replace('"', " ").split())
        assert "\x1b" not in said
        assert "--json" not in command or len(json.loads(said)) >= 2


@pytest.mark.parametrize("id", IDS[:-1])
def test_it_is_shown_and_cancelled_by_what_it_is_listed_as(damaged, capsys):
    url, store = damaged

    def skunq(*words):
        with pytest.raises(SystemExit) as end:
            main([*words, "-q", "demo", "--url", url])
        said = capsys.readouterr()
        assert end.value.code == 0, said.err
        return said.out

    rows = json.loads(skunq("runs", "--json"))
    listed = {line.split("  ")[0] for line in skunq("runs", *FULL).splitlines()[1:]}
    (odd,) = listed - {sealed(1).id, sealed(3).id}

    assert len(rows) == 3
    assert json.loads(skunq("show", odd, "--json"))["state"] == "queued"
    skunq("cancel", odd)
    assert [str(record.state) for record in store.find(Filter(), now=NOW)].count("cancelled") == 1
    skunq("retry", odd)
    assert [str(record.state) for record in store.find(Filter(), now=NOW)] == ["queued"] * 3


@pytest.mark.parametrize("id", IDS)
def test_it_ends_once_and_is_purged(damaged):
    _, store = damaged

    claims = [*take(store), *take(store, "B")]
    taken = store.commit([(claim, Outcome.failed("no")) for claim in claims], now=NOW)

    assert {sealed(1).id, sealed(3).id} <= taken == {claim.id for claim in claims}
    assert take(store, "C", now=NOW + 100) == []
    for _ in range(3):
        store.purge(now=NOW + 9 * DAY)
    assert store.find(Filter(), now=NOW) == []


def test_bytes_that_are_text_run_with_that_as_their_id_and_cost_no_other(tmp_path):
    with closing(open_sqlite(f"sqlite:///{tmp_path}/runs.db")) as store:
        store.put([sealed(n) for n in (1, 2, 3)])
        with closing(sqlite3.connect(f"{tmp_path}/runs.db", isolation_level=None)) as db:
            db.execute("UPDATE run SET id = ? WHERE id = ?", (b"text", sealed(2).id))
            db.execute("UPDATE run SET id = ? WHERE id = ?", (sealed(1).id.encode(), sealed(3).id))

        assert {claim.id for claim in take(store)} == {sealed(1).id, "text"}


@pytest.mark.parametrize("id", IDS)
def test_an_ended_one_is_purged(damaged, id):
    url, store = damaged
    claims = take(store)
    store.commit([(claim, Outcome.complete(b"")) for claim in claims], now=NOW)
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as db:
            db.execute("UPDATE run SET id = CAST(? AS TEXT) WHERE id = ?", (b"\xfd" + id, sealed(1).id))

    for _ in range(3):
        store.purge(now=NOW + 9 * DAY)

    assert store.find(Filter(), now=NOW) == []
