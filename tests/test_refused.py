"""A server that cannot be reached is told in one sentence, without what its driver did on the way to it."""

from __future__ import annotations

import gc
import socket
import traceback
from contextlib import closing

import pytest

from skunkqueue import SkunkError, SkunkQueue, StoreAway, WorkerPool
from skunkqueue.persistence.refused import worth_showing
from skunkqueue.worker.pool import engine

LEFT_OPEN = pytest.mark.filterwarnings("ignore:.*unclosed <socket:ResourceWarning")
"""Versions 5 of redis-py leave the socket open where there is none to connect to."""


@pytest.fixture
def closed_port():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        yield closed.getsockname()[1]


@pytest.mark.parametrize(
    ("driver", "url"),
    [
        ("redis", "redis://127.0.0.1:{}/0"),
        pytest.param("redis", "redis+unix:///no/such/socket{}", marks=LEFT_OPEN),
        ("pymongo", "mongodb://127.0.0.1:{}/x?serverSelectionTimeoutMS=200"),
    ],
)
def test_a_refused_connection_is_one_sentence_without_the_drivers_own_calls(driver, url, closed_port):
    pytest.importorskip(driver)
    with closing(SkunkQueue("demo", url.format(closed_port))) as queue:
        with pytest.raises(StoreAway, match="cannot be reached") as raised:
            queue.runs()

        shown = "".join(traceback.format_exception(raised.value))
        assert shown.count("Traceback") == 1
        assert f"site-packages/{driver}" not in shown
    del raised
    gc.collect()  # else what the driver has left open fails another test


def test_an_error_of_a_connection_that_was_there_keeps_its_cause():
    error = ConnectionResetError("reset by peer")

    assert worth_showing(error) is error


def test_a_burst_on_a_store_that_never_answers_ends_with_an_error(closed_port, monkeypatch):
    pytest.importorskip("redis")
    monkeypatch.setattr(engine, "UNREACHED", 0.3)
    with closing(SkunkQueue("demo", f"redis://127.0.0.1:{closed_port}/0")) as queue:
        pool = WorkerPool(queue, in_process=True)

        with pytest.raises(SkunkError, match=r"gave up after 0\.3 s: Redis at .* cannot be reached"):
            pool.run_until_idle()


def test_a_burst_on_a_store_that_hangs_ends_with_an_error(monkeypatch):
    pytest.importorskip("redis")
    monkeypatch.setattr(engine, "UNREACHED", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with closing(SkunkQueue("demo", f"redis://127.0.0.1:{port}/0")) as queue:
            pool = WorkerPool(queue, in_process=True, lease=0.5)

            with pytest.raises(SkunkError, match=r"gave up after 0\.3 s: redis://127\.0\.0\.1:\d+/0 does not answer"):
                pool.run_until_idle()
