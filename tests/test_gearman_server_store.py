"""What only our job server does: its jobs survive it, several share a store, and queues have both kinds of worker."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gearman_ours import OurServer, command, in_process
from gearman_servers import Gearmand, Peer
from pools import HERE, LIMIT, until
from test_gearman_server import SOON, Served, ask, grab, grab_job, nothing_comes, opened, status_of, sync

from skunkqueue import SkunkQueue, StoreAway, WrongCall
from skunkqueue.codec import encode_call
from skunkqueue.envelope import Envelope, Seal, Want, pack_body, pack_head
from skunkqueue.errors import PayloadError
from skunkqueue.gearman import GearmanServer
from skunkqueue.gearman.protocol import Packet, PacketType
from skunkqueue.gearman.server.bodies import answer_of, body_of, head, payload_of
from skunkqueue.gearman.server.cron import NoSuchTime, next_time
from skunkqueue.gearman.server.names import function_of, handle_of, id_of, key_of, route_of, unique_of
from skunkqueue.ids import new_id, new_token
from skunkqueue.persistence import Persister

KIND = PacketType


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with opened(request.param, tmp_path) as found:
        yield found


@pytest.fixture
def ours(url: str) -> Iterator[Gearmand]:
    with in_process(url=url, queue="shared") as server:
        yield served(server)


def served(server: GearmanServer) -> Served:
    return Served(int(server.address.rpartition(":")[2]))


def able(server: Gearmand, *functions: str) -> Peer:
    worker = Peer(server)
    for function in functions:
        worker.send(KIND.CAN_DO, function)
    return worker


def drain(server: Gearmand, function: str, count: int) -> list[bytes]:
    """The data of so many jobs, done by a worker that sleeps while there is none."""
    worker = able(server, function)
    found: list[bytes] = []
    while len(found) < count:
        job = grab_job(worker)
        found.append(job.data)
        worker.send(KIND.WORK_COMPLETE, job.handle, b"")
    sync(worker)
    worker.close()
    return found


# -- survival --------------------------------------------------------------------------------------------------------


def test_background_jobs_survive_the_kill_of_the_server(url: str) -> None:
    server = OurServer(url, "--lease", "2").start()
    try:
        client, worker = Peer(server), able(server, "f")
        handles = [client.submit("f", str(n).encode(), background=True) for n in range(20)]
        held = [grab(worker) for _ in range(5)]
        worker.send(KIND.WORK_COMPLETE, held[0].handle, b"")
        sync(worker)

        server.kill()
        server.start()

        survivor = Peer(server)
        assert status_of(survivor, handles[10]) == (1, 0, 0, 0)
        done = drain(server, "f", 19)
        assert sorted(done, key=int) == [str(n).encode() for n in range(1, 20)]
        assert all(status_of(survivor, handle) == (0, 0, 0, 0) for handle in handles)
        for peer in (client, worker, survivor):
            peer.close()
    finally:
        server.kill()


@pytest.mark.slow
def test_no_accepted_job_is_lost_over_many_kills(url: str) -> None:
    server = OurServer(url, "--lease", "2").start()
    accepted: set[bytes] = set()
    done: set[bytes] = set()
    try:
        for round in range(8):
            client = Peer(server)
            worker = able(server, "f")
            client.socket.sendall(
                b"".join(Packet.request(KIND.SUBMIT_JOB_BG, "f", "", f"{round}.{n}").encode() for n in range(300))
            )
            killed_at = time.monotonic() + 0.05 + 0.06 * round
            created = 0
            try:
                while time.monotonic() < killed_at:
                    packet = client.next(0.05)
                    assert packet.type is KIND.JOB_CREATED
                    accepted.add(f"{round}.{created}".encode())
                    created += 1
                    job = grab(worker)
                    if job.type is KIND.JOB_ASSIGN_UNIQ:
                        worker.send(KIND.WORK_COMPLETE, job.handle, b"")
                        done.add(job.data)
            except TimeoutError:
                pass
            server.kill()
            client.close()
            worker.close()
            server.start()
        # What was reported is done, unless the kill came before its commit; all the rest is there.
        worker = able(server, "f")
        end = time.monotonic() + 60
        while time.monotonic() < end and server.status("f")[0]:
            job = grab(worker)
            if job.type is KIND.JOB_ASSIGN_UNIQ:
                worker.send(KIND.WORK_COMPLETE, job.handle, b"")
                done.add(job.data)
            else:
                time.sleep(0.1)  # leased by a server that was killed
        worker.close()
    finally:
        server.kill()
    assert accepted
    assert accepted - done == set()


def test_a_stop_gives_the_jobs_back_at_once_and_lets_the_workers_go(url: str) -> None:
    with in_process(url=url) as first:
        client, worker = Peer(served(first)), able(served(first), "f")
        handle = client.submit("f", b"x", background=True)
        grab(worker)

    with in_process(url=url) as second:
        after = able(served(second), "f")
        assert grab(after).handle == handle
        after.close()
    client.close()
    worker.close()


def test_a_graceful_shutdown_waits_for_what_runs(url: str) -> None:
    server = OurServer(url).start()
    try:
        client, worker = Peer(server), able(server, "f")
        handle = client.submit("f", b"")
        client.submit("f", b"left", background=True)
        grab(worker)
        process = server.process
        assert process is not None

        assert ask(server, "shutdown graceful") == "OK\n"
        assert grab(worker).type is KIND.NO_JOB
        worker.send(KIND.WORK_COMPLETE, handle, b"done")

        assert client.ended().data == b"done"
        assert process.wait(LIMIT) == 0
        client.close()
        worker.close()
        server.process = None
        server.start()
        assert drain(server, "f", 1) == [b"left"]
    finally:
        server.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it(url: str, number: int) -> None:
    server = OurServer(url).start()
    process = server.process
    assert process is not None

    process.send_signal(number)

    assert process.wait(LIMIT) == 0
    until(lambda: "stopped serving" in "".join(server.lines))


# -- several servers -------------------------------------------------------------------------------------------------


def test_a_job_put_through_one_server_is_woken_and_run_through_another(url: str) -> None:
    with in_process(url=url) as one, in_process(url=url) as two:
        client, worker = Peer(served(one)).hear_exceptions(), able(served(two), "f")
        worker.send(KIND.PRE_SLEEP)
        sync(worker)

        handle = client.submit("f", b"data", unique="u")

        assert worker.next().type is KIND.NOOP
        assert grab_job(worker).args == (handle, b"f", b"u", b"data")
        worker.send(KIND.WORK_STATUS, handle, 1, 4)
        worker.send(KIND.WORK_DATA, handle, b"first, ")
        assert client.next() == Packet.response(KIND.WORK_STATUS, handle, 1, 4)
        worker.send(KIND.WORK_COMPLETE, handle, b"last")
        # What was streamed to another server is part of the answer.
        assert client.ended() == Packet.response(KIND.WORK_COMPLETE, handle, b"first, last")

        failing = client.submit("f", b"")
        assert grab_job(worker).handle == failing
        worker.send(KIND.WORK_EXCEPTION, failing, b"no luck")
        assert client.ended() == Packet.response(KIND.WORK_EXCEPTION, failing, b"no luck")
        client.close()
        worker.close()


def test_a_unique_key_holds_across_servers(url: str) -> None:
    with in_process(url=url) as one, in_process(url=url) as two:
        first, second, worker = Peer(served(one)), Peer(served(two)), able(served(two), "f")
        handle = first.submit("f", b"", unique="same")

        assert second.submit("f", b"", unique="same") == handle
        second.send(KIND.GET_STATUS_UNIQUE, "same")
        assert second.next().args[:3] == (b"same", b"1", b"0")
        assert grab_job(worker).handle == handle
        worker.send(KIND.WORK_COMPLETE, handle, b"both")

        assert first.ended() == second.ended()
        for peer in (first, second, worker):
            peer.close()


def test_the_jobs_of_a_killed_server_go_to_another(url: str) -> None:
    dying = OurServer(url, "--lease", "2").start()
    with in_process(url=url) as other:
        client, worker, heir = Peer(dying), able(dying, "f"), able(served(other), "f")
        handle = client.submit("f", b"x", background=True)
        grab(worker)
        heir.send(KIND.PRE_SLEEP)

        dying.kill()

        assert heir.next(LIMIT + 15).type is KIND.NOOP  # once its lease has ended
        assert grab_job(heir).handle == handle
        for peer in (client, worker, heir):
            peer.close()


def test_a_background_submission_keeps_a_job_that_a_client_has_left(ours: Gearmand) -> None:
    client, other, worker = Peer(ours), Peer(ours), able(ours, "f")
    handle = client.submit("f", b"kept", unique="same")
    assert other.submit("f", b"", unique="same", background=True) == handle

    client.close()
    sync(other)

    assert grab_job(worker).handle == handle
    other.close()
    worker.close()


# -- later, and too late ---------------------------------------------------------------------------------------------


def test_a_sleeping_worker_is_woken_when_a_job_falls_due(ours: Gearmand) -> None:
    client, worker = Peer(ours), able(ours, "f")
    assert grab(worker).type is KIND.NO_JOB
    worker.send(KIND.PRE_SLEEP)
    due = int(time.time()) + 2
    client.send(KIND.SUBMIT_JOB_EPOCH, "f", "", due, b"later")
    client.next()

    assert worker.next().type is KIND.NOOP

    assert time.time() >= due - 0.1
    assert grab_job(worker).data == b"later"
    client.close()
    worker.close()


def test_a_scheduled_job_waits_for_its_minute(ours: Gearmand) -> None:
    client, worker = Peer(ours), able(ours, "f")
    hour = (time.localtime().tm_hour + 2) % 24
    client.send(KIND.SUBMIT_JOB_SCHED, "f", "u", "", hour, "", "", "", b"data")
    handle = client.next().handle

    assert status_of(client, handle) == (1, 0, 0, 0)
    assert grab(worker).type is KIND.NO_JOB
    client.send(KIND.SUBMIT_JOB_SCHED, "f", "", "61", "", "", "", "", b"")
    assert client.next().field("text") == b"minute is 0 to 59, or empty for any; got b'61'"
    client.close()
    worker.close()


@pytest.mark.parametrize(
    ("fields", "then"),
    [
        ((b"30", b"", b"", b"", b""), (2026, 3, 4, 10, 30)),
        ((b"0", b"", b"", b"", b""), (2026, 3, 4, 11, 0)),
        ((b"5", b"10", b"", b"", b""), (2026, 3, 5, 10, 5)),
        ((b"*", b"*", b"*", b"*", b"*"), (2026, 3, 4, 10, 16)),
        ((b"", b"9", b"", b"", b"0"), (2026, 3, 9, 9, 0)),
        ((b"0", b"0", b"29", b"2", b""), (2028, 2, 29, 0, 0)),
        ((b"0", b"12", b"31", b"", b""), (2026, 3, 31, 12, 0)),
    ],
)
def test_the_next_time_of_a_schedule(fields: tuple[bytes, ...], then: tuple[int, ...]) -> None:
    now = time.mktime((2026, 3, 4, 10, 15, 30, 0, 0, -1))

    found = time.localtime(next_time(*fields, now=now))

    assert tuple(found)[:6] == (*then, 0)


def test_a_time_that_never_comes_is_refused() -> None:
    with pytest.raises(NoSuchTime, match="no such time"):
        next_time(b"", b"", b"31", b"2", b"", now=0.0)


def test_a_job_that_takes_too_long_goes_to_another_and_the_late_answer_is_refused(ours: Gearmand) -> None:
    client, slow, other = Peer(ours), Peer(ours), able(ours, "f")
    slow.send(KIND.CAN_DO_TIMEOUT, "f", 1000)
    handle = client.submit("f", b"")
    assert grab(slow).handle == handle
    assert grab(other).type is KIND.NO_JOB
    other.send(KIND.PRE_SLEEP)

    assert other.next().type is KIND.NOOP
    assert grab_job(other).handle == handle
    slow.send(KIND.WORK_COMPLETE, handle, b"late")
    assert slow.next().field("code") == b"JOB_NOT_FOUND"
    other.send(KIND.WORK_COMPLETE, handle, b"in time")

    assert client.ended().data == b"in time"
    for peer in (client, slow, other):
        peer.close()


def test_a_job_is_given_up_after_so_many_tries(url: str) -> None:
    with in_process(url=url, job_retries=2) as server:
        client = Peer(served(server))
        handle = client.submit("f", b"")
        for _ in range(2):
            worker = able(served(server), "f")
            assert grab_job(worker).handle == handle
            worker.close()

        assert client.ended() == Packet.response(KIND.WORK_FAIL, handle)
        client.close()


def test_a_run_cancelled_at_the_desk_is_refused_to_its_worker(ours: Gearmand, url: str) -> None:
    client, worker = Peer(ours), able(ours, "f")
    handle = client.submit("f", b"")
    grab(worker)
    with SkunkQueue("shared", url) as queue:
        (run,) = queue.runs()
        assert run.cancel()

    worker.send(KIND.WORK_COMPLETE, handle, b"late")

    assert worker.next().field("code") == b"JOB_NOT_FOUND"
    assert client.ended() == Packet.response(KIND.WORK_FAIL, handle)
    client.close()
    worker.close()


def test_leases_last_as_long_as_the_worker_is_there(ours: Gearmand, url: str) -> None:
    client, worker = Peer(ours), able(ours, "f")
    client.submit("f", b"", background=True)
    grab(worker)
    with SkunkQueue("shared", url) as queue:
        (run,) = queue.runs()
        first = queue.store.get([run.id])[run.id].ripe

        until(lambda: queue.store.get([run.id])[run.id].ripe > first)
    client.close()
    worker.close()


# -- one queue, both kinds of client and worker ----------------------------------------------------------------------


@pytest.fixture
def jobs(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("SHARED_URL", url)
    sys.modules.pop("gearman_queue_jobs", None)
    import gearman_queue_jobs

    yield gearman_queue_jobs
    gearman_queue_jobs.queue.close()
    sys.modules.pop("gearman_queue_jobs", None)


@pytest.fixture
def skunq_work(url: str, tmp_path: Path) -> Iterator[None]:
    env = {**os.environ, "SHARED_URL": url, "PYTHONPATH": str(HERE)}
    words = ("work", "-q", "shared", "-r", "add", "size", "broken", "--url", url, "--import", "gearman_queue_jobs")
    with (tmp_path / "work.log").open("wb") as log:
        process = subprocess.Popen(command(*words), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env)
    yield
    process.send_signal(signal.SIGINT)
    process.wait(LIMIT)


def test_workers_of_the_queue_run_what_gearman_clients_submit(ours: Gearmand, skunq_work: None) -> None:
    client = Peer(ours).hear_exceptions()

    assert json.loads(client.call("add", b'{"a": 4, "b": 5}')) == 9
    assert json.loads(client.call("add", b"[1, 2]")) == 3
    assert client.call("size", b"\0\xff raw") == b"6"
    with pytest.raises(RuntimeError, match="ValueError: on purpose"):
        client.call("broken", b"")
    with pytest.raises(RuntimeError, match="TypeError"):
        client.call("add", b'{"c": 4}')
    client.close()


@pytest.mark.parametrize("is_able", [False, True])
def test_a_client_is_told_at_once_of_what_was_run_elsewhere(
    ours: Gearmand, skunq_work: None, monkeypatch: pytest.MonkeyPatch, is_able: bool
) -> None:
    """By what the store says when it is waited for: the ticks of the server come much later, and so do other looks."""
    client = Peer(ours)
    assert client.call("size", b"abc") == b"3"  # there is a worker
    if is_able:  # so is one here, which is at something else
        worker = able(ours, "size")
        sync(worker)
    for name in ("LONGEST", "SHORTEST", "SAFETY"):
        monkeypatch.setattr(f"skunkqueue.gearman.server.watch.{name}", 120.0)
    time.sleep(0.3)  # the ticks that are due by now

    for _ in range(5):
        assert client.call("size", b"abc") == b"3"
        time.sleep(0.05)
    client.close()
    if is_able:
        worker.close()


def test_a_gearman_worker_runs_what_the_queue_fires(ours: Gearmand, jobs: Any) -> None:
    worker = able(ours, "elsewhere", "add", "size")
    worker.send(KIND.PRE_SLEEP)
    sync(worker)

    run = jobs.elsewhere.fire(name="ü", deep={"list": [1, None]})

    assert worker.next().type is KIND.NOOP
    job = grab_job(worker)
    assert json.loads(job.data) == {"name": "ü", "deep": {"list": [1, None]}}
    worker.send(KIND.WORK_STATUS, job.handle, 1, 2)
    worker.send(KIND.WORK_COMPLETE, job.handle, b'{"ok": true}')
    assert run.wait(LIMIT) == {"ok": True}

    by_position = jobs.add.fire(4, 5)
    job = grab_job(worker)
    assert json.loads(job.data) == [4, 5]
    worker.send(KIND.WORK_EXCEPTION, job.handle, b"cannot add")
    until(lambda: by_position.state == "failed")
    assert "cannot add" in str(by_position.error)

    raw = jobs.size.fire(b"\0raw")
    job = grab_job(worker)
    assert job.data == b"\0raw"
    worker.send(KIND.WORK_COMPLETE, job.handle, b"not JSON")
    assert raw.wait(LIMIT) == b"not JSON"
    worker.close()


def test_retries_and_timeouts_of_a_job_hold_for_gearman_workers_too(ours: Gearmand, jobs: Any) -> None:
    worker = able(ours, "elsewhere")
    run = jobs.elsewhere.options(retries=1, backoff=0.01, timeout=0.2).fire()

    first = grab_job(worker)
    time.sleep(0.3)
    again = grab_job(worker)
    worker.send(KIND.WORK_FAIL, again.handle)
    sync(worker)

    assert first.handle == again.handle
    until(lambda: run.state == "failed")
    assert run.attempts == 2
    worker.close()


def test_a_job_that_must_not_run_twice_fails_with_its_worker(ours: Gearmand, jobs: Any) -> None:
    worker = able(ours, "elsewhere")
    run = jobs.elsewhere.options(at_most_once=True).fire()
    grab_job(worker)

    worker.close()

    until(lambda: run.state == "failed")


def test_arguments_that_no_gearman_worker_can_have_fail_that_run_alone(ours: Gearmand, jobs: Any) -> None:
    worker = able(ours, "elsewhere", "add")
    bad = jobs.elsewhere.fire(when={1, 2})
    mixed = jobs.add.fire(1, b=2)
    good = jobs.add.fire(b=2, a=1)

    job = grab_job(worker)

    assert json.loads(job.data) == {"b": 2, "a": 1}
    until(lambda: bad.state == mixed.state == "failed")
    assert "cannot be written as JSON" in str(bad.error)
    assert "by keyword or by position" in str(mixed.error)
    assert good.state == "running"
    worker.close()


def test_a_failed_background_job_can_be_retried_at_the_desk(ours: Gearmand, url: str) -> None:
    client, worker = Peer(ours), able(ours, "f")
    handle = client.submit("f", b"again", background=True)
    grab(worker)
    worker.send(KIND.WORK_FAIL, handle)
    sync(worker)
    with SkunkQueue("shared", url) as queue:
        (run,) = queue.runs(state="failed")

        assert queue.store.reopen([run.id], now=queue.clock.now())

    assert grab_job(worker).handle == handle
    client.close()
    worker.close()


# -- a store that is away --------------------------------------------------------------------------------------------


class Troubled:
    """Makes every call to a store fail, for as long as ``is_away``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, store: Persister) -> None:
        self.is_away = False
        for name in ("put", "claim", "commit", "exchange", "extend", "get", "count", "find", "beat"):
            real = getattr(store, name)
            monkeypatch.setattr(store, name, self._troubled(real), raising=True)

    def _troubled(self, real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.is_away:
                raise StoreAway("the store is away, for a test")
            return real(*args, **kwargs)

        return call


def test_while_the_store_is_away_peers_wait_and_nothing_is_lost(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    with in_process(url=url, log=log) as server:
        client, worker = Peer(served(server)), able(served(server), "f")
        handle = client.submit("f", b"1")
        grab(worker)
        store = Troubled(monkeypatch, server.queue.store)

        store.is_away = True
        client.send(KIND.SUBMIT_JOB_BG, "f", "", b"2")
        worker.send(KIND.WORK_COMPLETE, handle, b"done")
        worker.send(KIND.GRAB_JOB_UNIQ)
        nothing_comes(client)
        nothing_comes(worker)
        other = Peer(served(server))
        sync(other)  # the loop goes on
        store.is_away = False

        assert {client.next().type, client.next().type} == {KIND.JOB_CREATED, KIND.WORK_COMPLETE}
        job = worker.next()
        if job.type is KIND.NO_JOB:
            job = grab_job(worker)
        assert job.data == b"2"
        for peer in (client, worker, other):
            peer.close()
    assert log.getvalue().count("trying again until it is back") == 1
    assert log.getvalue().count("the store is back") == 1


def test_a_submission_is_refused_where_the_store_stays_away(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skunkqueue.gearman.server.calls.PATIENCE", 0.2)
    with in_process(url=url) as server:
        client = Peer(served(server))
        sync(client)
        store = Troubled(monkeypatch, server.queue.store)
        store.is_away = True

        client.send(KIND.SUBMIT_JOB_BG, "f", "", b"")

        assert client.next().field("code") == b"QUEUE_ERROR"
        store.is_away = False
        assert client.submit("f", b"", background=True)
        client.close()


# -- names and bodies ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [b"plain.name:1-2_3", b"a b", b"=", b"\xff\x01", "ü^@~=C3".encode(), b"x" * 512])
def test_a_function_and_its_route_belong_together(function: bytes) -> None:
    assert function_of(route_of(function)) == function
    assert function_of(route_of(function) + "^high") == function
    assert not {"^", "@", "~"} & set(route_of(function))


@pytest.mark.parametrize("unique", [b"", b"k", b"a\nb", b"\xff\xfe", b"=hex:00", b"=hex:zz", "ü".encode()])
def test_a_unique_key_comes_back_as_it_went(unique: bytes) -> None:
    assert unique_of(key_of(b"f", unique, b"data")) == unique


def test_a_handle_is_made_of_the_id() -> None:
    id = new_id(time.time())

    assert id_of(handle_of(id)) == id
    assert id_of(b"H:elsewhere:1") is None
    assert id_of(b"H:skunq:\xff") is None
    assert len(handle_of("x" * 200)) <= 63


@pytest.mark.parametrize("data", [b"", b"{}", b'{"a": 1}', b"\0\xff", b"[" * 100_000])
def test_a_payload_comes_back_as_it_went(data: bytes) -> None:
    assert payload_of(body_of(head("f", 1.0), data)) == (data, b"")
    assert payload_of(body_of(head("f", 1.0), data, b"r")) == (data, b"r")
    assert answer_of(b"j" + data) == data


def test_what_is_pickled_is_not_given_to_gearman() -> None:
    with pytest.raises(PayloadError, match="pickled"):
        payload_of(pack_body(pack_head("f", "", Seal()), b"", encode_call((object(),), {})))
    with pytest.raises(PayloadError, match="pickled"):
        answer_of(b"p...")


# -- wrong calls, and where it listens -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"listen": "127.0.0.1:99999"}, "an address to listen on is HOST or HOST:PORT"),
        ({"listen": ""}, "an address to listen on"),
        ({"keep": -1}, "keep is a number from 0 up"),
        ({"lease": 0}, "lease is a number from 1 up"),
        ({"job_retries": -1}, "job_retries is a number from 0 up"),
        ({"max_payload": 0}, "max_payload is a number of bytes"),
        ({"queue": "no good"}, "queue name"),
    ],
)
def test_a_wrong_option_is_refused_with_a_sentence(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(WrongCall, match=sentence):
        GearmanServer(**wrong)


def test_an_address_that_is_taken_is_told(ours: Gearmand) -> None:
    with pytest.raises(WrongCall, match="cannot listen on 127"):
        GearmanServer(port=ours.port, log=io.StringIO()).start()


def test_it_says_who_can_connect() -> None:
    log = io.StringIO()

    with in_process(log=log, listen=["127.0.0.1:0", "0.0.0.0"]) as server:
        assert len(server.addresses) == 2

    assert "anyone who can reach 0.0.0.0" in log.getvalue()
    assert "anyone who can reach 127" not in log.getvalue()


def test_runs_fired_straight_into_the_store_wake_a_sleeper(ours: Gearmand, url: str) -> None:
    worker = able(ours, "f")
    worker.send(KIND.PRE_SLEEP)
    sync(worker)
    nothing_comes(worker, SOON)
    with SkunkQueue("shared", url) as queue:
        now = queue.clock.now()
        queue.store.put([Envelope(new_id(now), "shared", "f^low", now, body_of(head("f", 1.0), b"x"))])

        assert worker.next().type is KIND.NOOP
        assert grab_job(worker).data == b"x"
        assert not queue.store.claim([Want("shared", ("f^low",), "w", new_token(), 1)], now=now, until=now + 1)
    worker.close()
