"""What is no store of ours never becomes one by waiting; a store that was right once and is away comes back."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import threading
from contextlib import closing, contextmanager, suppress

import pytest
from pools import LIMIT, PoolProcess

from skunkqueue import SkunkQueue, StoreAway, StoreError, StoreVersion, WrongStore
from skunkqueue.persistence.sqlite import SQLitePersister
from skunkqueue.persistence.sqlite import file as sqlite_file

SENTENCES = {
    "another program's database": "is a database of another program",
    "a text": "is not a SkunkQueue store",
    "a folder": "is a folder",
    "a newer store": "was written by a newer SkunkQueue",
}


def make(path, kind):
    """Put what is no store of this version there."""
    if kind == "a folder":
        path.mkdir()
    elif kind == "a text":
        path.write_text("a text of some length\n" * 100)
    elif kind == "a newer store":
        with SkunkQueue("demo", f"sqlite:///{path}") as queue:
            queue.store.count()
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA user_version = 9000")
    else:
        with closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE customers (name)")


@contextmanager
def web_server_at(port=0):
    """The port of a server that speaks HTTP to whoever comes."""
    with socket.create_server(("127.0.0.1", port)) as server:

        def serve():
            with suppress(OSError):
                while True:
                    client, _ = server.accept()
                    with client, suppress(OSError):
                        client.recv(1000)
                        client.sendall(b"HTTP/1.1 400 Bad Request\r\nServer: web\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture
def web_server():
    with web_server_at() as port:
        yield port


@pytest.mark.parametrize("kind", SENTENCES)
@pytest.mark.parametrize("in_process", [False, True])
def test_a_pool_at_what_is_no_store_ends_with_a_sentence(tmp_path, kind, in_process):
    make(tmp_path / "runs.db", kind)

    with PoolProcess(tmp_path, f"sqlite:///{tmp_path}/runs.db", "default", in_process=in_process) as pool:
        assert pool.ends() == 1
        assert SENTENCES[kind] in pool.log().splitlines()[-1]
        assert "the store is away" not in pool.log()


@pytest.mark.parametrize("scheme", ["redis", pytest.param("mongodb", marks=[pytest.mark.slow])])
def test_a_pool_at_a_server_of_another_kind_ends_with_a_sentence(tmp_path, web_server, scheme):
    pytest.importorskip({"mongodb": "pymongo"}.get(scheme, scheme))
    url = f"{scheme}://127.0.0.1:{web_server}/0"

    with SkunkQueue("demo", url) as queue, pytest.raises(WrongStore, match="what answers at"):
        queue.store.count()
    with PoolProcess(tmp_path, url, "default") as pool:
        assert pool.ends(60) == 1
        assert "what answers at" in pool.log().splitlines()[-1]


def test_firing_at_what_is_no_store_says_so(tmp_path):
    for number, (kind, sentence) in enumerate(SENTENCES.items()):
        make(tmp_path / f"{number}.db", kind)
        with (
            SkunkQueue("demo", f"sqlite:///{tmp_path}/{number}.db") as queue,
            pytest.raises((WrongStore, StoreVersion), match=sentence),
        ):
            queue.event(name="abs")(abs).fire(1)


def test_a_store_that_was_right_once_is_away_while_something_else_is_in_its_place(tmp_path):
    pytest.importorskip("redis")
    from redis_server import RedisServer

    with RedisServer() as server, SkunkQueue("demo", server.url) as queue:
        job = queue.event(name="abs")(abs)
        with PoolProcess(tmp_path, server.url, "default", lease=1) as pool:
            assert job.fire(-1).wait(LIMIT) == 1
            server.stop()
            with web_server_at(server.port):
                pool.said("the store is away")
                with suppress(StoreError):
                    queue.store.count()
            server.start()
            pool.said("the store is back")
            assert job.fire(-2).wait(LIMIT) == 2


def replaced(path, kept, kind):
    """Put something else in the place of a store, and leave its write-ahead log where it is."""
    other = kept.with_name("other")
    if kind == "a text":
        make(other, kind)
    else:
        with SkunkQueue("other", f"sqlite:///{other}") as queue:
            queue.store.count()
    os.replace(path, kept)
    os.replace(other, path)  # at once: while there is no file, a new store would be made
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["a text", "another store"])
def test_what_replaced_a_store_is_not_written_to_while_its_log_is_there(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(sqlite_file, "GLANCE", 0.0)
    path, kept = tmp_path / "runs.db", tmp_path / "kept.db"
    with SkunkQueue("demo", f"sqlite:///{path}") as queue:
        job = queue.event(name="abs")(abs)
        with PoolProcess(tmp_path, f"sqlite:///{path}", "default", lease=1) as pool:
            assert job.fire(-1).wait(LIMIT) == 1
            there = replaced(path, kept, kind)
            pool.said("the store is away")
            with pytest.raises(StoreError, match="was replaced"):
                job.fire(-2)
            assert path.read_bytes() == there

            os.replace(kept, path)
            pool.said("the store is back")
            assert job.fire(-3).wait(LIMIT) == 3


def test_another_store_beneath_a_log_is_left_alone_by_newcomers_too(tmp_path):
    path = tmp_path / "runs.db"
    with SkunkQueue("demo", f"sqlite:///{path}") as queue:
        run = queue.event(name="abs")(abs).fire(-1)
        there = replaced(path, tmp_path / "kept.db", "another store")

        with closing(SQLitePersister(str(path))) as newcomer:
            with pytest.raises(StoreAway, match="was replaced"):
                newcomer.count()
            assert path.read_bytes() == there
            os.replace(path, tmp_path / "other.db")
            os.replace(tmp_path / "kept.db", path)
            assert newcomer.get([run.id])[run.id].state == run.state == "queued"

    with closing(SQLitePersister(str(path))) as last:  # closed by all, and so without a log
        last.count()
    os.replace(tmp_path / "other.db", path)
    with closing(SQLitePersister(str(path))) as newcomer:
        assert newcomer.count() == {}


def test_a_store_that_was_copied_with_its_log_is_used(tmp_path):
    with SkunkQueue("demo", f"sqlite:///{tmp_path}/runs.db") as queue:
        run = queue.event(name="abs")(abs).fire(-1)
        (tmp_path / "copy").mkdir()
        for file in tmp_path.glob("runs.db*"):
            if file.is_file():
                shutil.copy(file, tmp_path / "copy" / file.name)

        with closing(SQLitePersister(f"{tmp_path}/copy/runs.db")) as copy:
            assert copy.get([run.id])[run.id].state == "queued"


def test_a_store_of_an_early_version_gets_an_id(tmp_path):
    path = str(tmp_path / "runs.db")
    with closing(SQLitePersister(path)) as store:
        store.count()
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE store")
        db.commit()

    for _ in range(2):
        with closing(SQLitePersister(path)) as store:
            store.count()
            with closing(sqlite3.connect(path)) as db:
                ((found,),) = db.execute("SELECT id FROM store").fetchall()
            assert (tmp_path / "runs.db-turn").read_text() == f"{found}\n"


def test_a_text_beneath_a_log_is_no_store_for_newcomers_either(tmp_path):
    path = tmp_path / "runs.db"
    with SkunkQueue("demo", f"sqlite:///{path}") as queue:
        run = queue.event(name="abs")(abs).fire(-1)
        there = replaced(path, tmp_path / "kept.db", "a text")

        with closing(SQLitePersister(str(path))) as newcomer, pytest.raises(WrongStore, match="is not a SkunkQueue"):
            newcomer.count()
        assert path.read_bytes() == there
        os.replace(tmp_path / "kept.db", path)
        assert run.state == "queued"
