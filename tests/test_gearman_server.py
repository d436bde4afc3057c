"""What a job server does, on gearmand and on ours alike: the same tests for both."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gearman_ours import in_process
from gearman_servers import Gearmand, Peer
from pools import LIMIT, until
from programs import find
from redis_server import RedisServer

from skunkqueue.gearman.protocol import Packet, PacketType

KIND = PacketType
SOON = 0.3
"""Seconds for which something must not come."""


class Served(Gearmand):
    """Our server in this process, seen as a gearmand."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.process = None


@pytest.fixture(
    params=["gearmand", "memory", *(pytest.param(store, marks=pytest.mark.slow) for store in ("sqlite", "redis"))]
)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Gearmand]:
    if request.param == "gearmand":
        real = Gearmand().start()
        yield real
        real.kill()
        return
    with opened(request.param, tmp_path) as url, in_process(url=url) as ours:
        yield Served(int(ours.address.rpartition(":")[2]))
        if request.param == "memory":
            ours.queue.store.clear()


@contextlib.contextmanager
def opened(store: str, folder: Path) -> Iterator[str]:
    """The URL of a new store."""
    if store == "redis":
        with RedisServer() as redis:
            yield redis.url
    else:
        yield "memory://served" if store == "memory" else f"sqlite:///{folder}/jobs.db"


@pytest.fixture
def peers(server: Gearmand) -> Iterator[Any]:
    """Makes peers, and closes them."""
    made: list[Peer] = []

    def make(*functions: str) -> Peer:
        made.append(Peer(server))
        for function in functions:
            made[-1].send(KIND.CAN_DO, function)
        return made[-1]

    yield make
    for peer in made:
        peer.close()


def grab(worker: Peer, kind: PacketType = KIND.GRAB_JOB_UNIQ) -> Packet:
    worker.send(kind)
    return worker.next()


def grab_job(worker: Peer) -> Packet:
    """Grab until there is a job, as a worker does that is woken too early."""
    found: list[Packet] = []

    def got() -> bool:
        packet = grab(worker)
        found[:] = [packet]
        return packet.type is not KIND.NO_JOB

    until(got)
    return found[0]


def sync(peer: Peer) -> None:
    """Return once the server has dealt with all that was sent."""
    peer.send(KIND.ECHO_REQ, b"sync")
    while peer.next().type is not KIND.ECHO_RES:
        pass


def nothing_comes(peer: Peer, seconds: float = SOON) -> None:
    with pytest.raises(TimeoutError):
        peer.next(seconds)


def status_of(peer: Peer, handle: bytes) -> tuple[int, ...]:
    peer.send(KIND.GET_STATUS, handle)
    packet = peer.next()
    assert packet.type is KIND.STATUS_RES and packet.args[0] == handle
    return tuple(map(int, packet.args[1:]))


# -- a job's way -----------------------------------------------------------------------------------------------------


def test_a_foreground_job_goes_to_a_worker_and_its_answer_back(peers: Any) -> None:
    client, worker = peers(), peers("reverse")
    handle = client.submit("reverse", b"ab\0c", unique="u1")

    job = grab(worker)
    worker.send(KIND.WORK_COMPLETE, handle, b"c\0ba")

    assert job.type is KIND.JOB_ASSIGN_UNIQ
    assert job.args == (handle, b"reverse", b"u1", b"ab\0c")
    assert client.next() == Packet.response(KIND.WORK_COMPLETE, handle, b"c\0ba")


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        (KIND.GRAB_JOB, KIND.JOB_ASSIGN),
        (KIND.GRAB_JOB_UNIQ, KIND.JOB_ASSIGN_UNIQ),
        (KIND.GRAB_JOB_ALL, KIND.JOB_ASSIGN_UNIQ),
    ],
)
def test_each_way_to_grab_has_its_answer(peers: Any, asked: PacketType, answered: PacketType) -> None:
    client, worker = peers(), peers("f")
    client.submit("f", b"data", background=True)

    assert grab(worker, asked).type is answered
    assert grab(worker, asked).type is KIND.NO_JOB


def test_a_job_with_a_reducer_is_told_of_it_by_grab_job_all(peers: Any) -> None:
    client, worker = peers(), peers("split")
    client.send(KIND.SUBMIT_REDUCE_JOB_BACKGROUND, "split", "u", "join", "", b"1 2 3")
    handle = client.next().handle

    job = grab(worker, KIND.GRAB_JOB_ALL)

    assert job == Packet.response(KIND.JOB_ASSIGN_ALL, handle, "split", "u", "join", b"1 2 3")


def test_a_worker_gets_only_what_it_can_do(peers: Any) -> None:
    client, worker = peers(), peers("a", "b")
    worker.send(KIND.CANT_DO, "a")
    client.submit("a", b"1", background=True)
    client.submit("b", b"2", background=True)

    assert grab(worker).function == b"b"
    assert grab(worker).type is KIND.NO_JOB
    worker.send(KIND.RESET_ABILITIES)
    client.submit("b", b"3", background=True)
    assert grab(worker).type is KIND.NO_JOB


def test_high_goes_before_normal_before_low(peers: Any) -> None:
    client, worker = peers(), peers("f")
    for kind in (KIND.SUBMIT_JOB_LOW_BG, KIND.SUBMIT_JOB_BG, KIND.SUBMIT_JOB_HIGH_BG):
        for n in (1, 2):
            client.send(kind, "f", "", f"{kind.name} {n}")
            assert client.next().type is KIND.JOB_CREATED

    order = [grab(worker).data.decode() for _ in range(6)]

    kinds = ("SUBMIT_JOB_HIGH_BG", "SUBMIT_JOB_BG", "SUBMIT_JOB_LOW_BG")
    assert order == [f"{kind} {n}" for kind in kinds for n in (1, 2)]


def test_a_function_may_have_any_name(peers: Any) -> None:
    name = "Größe/of (a) thing=?"
    client, worker = peers(), peers(name)
    client.submit(name, b"x", background=True)

    assert grab(worker).function == name.encode()


def test_many_pipelined_jobs_are_created_and_done_in_order(peers: Any) -> None:
    client, worker = peers(), peers("f")
    client.socket.sendall(
        b"".join(Packet.request(KIND.SUBMIT_JOB_BG, "f", "", str(n)).encode() for n in range(500))
        + Packet.request(KIND.ECHO_REQ, b"behind").encode()
    )

    created = [client.next() for _ in range(501)]
    done = [grab_job(worker).data for _ in range(500)]

    assert [packet.type for packet in created] == [KIND.JOB_CREATED] * 500 + [KIND.ECHO_RES]
    assert len({packet.args[0] for packet in created}) == 501
    assert done == [str(n).encode() for n in range(500)]


# -- sleeping and waking ---------------------------------------------------------------------------------------------


def test_a_sleeping_worker_is_woken_by_a_job(peers: Any) -> None:
    client, worker = peers(), peers("f")
    assert grab(worker).type is KIND.NO_JOB
    worker.send(KIND.PRE_SLEEP)
    sync(worker)
    nothing_comes(worker)

    client.submit("f", b"", background=True)

    assert worker.next().type is KIND.NOOP
    assert grab(worker).type is KIND.JOB_ASSIGN_UNIQ


def test_a_worker_that_falls_asleep_while_a_job_comes_is_woken_at_once(peers: Any) -> None:
    client, worker = peers(), peers("f")
    assert grab(worker).type is KIND.NO_JOB
    client.submit("f", b"", background=True)

    worker.send(KIND.PRE_SLEEP)

    assert worker.next().type is KIND.NOOP


def test_a_worker_of_other_functions_sleeps_on(peers: Any) -> None:
    client, worker = peers(), peers("other")
    worker.send(KIND.PRE_SLEEP)
    sync(worker)

    client.submit("f", b"", background=True)

    nothing_comes(worker)


# -- what becomes of it ----------------------------------------------------------------------------------------------


def test_data_warnings_and_status_reach_the_client_in_order(peers: Any) -> None:
    client, worker = peers(), peers("f")
    handle = client.submit("f", b"")
    grab(worker)

    worker.send(KIND.WORK_DATA, handle, b"one")
    worker.send(KIND.WORK_WARNING, handle, b"care")
    worker.send(KIND.WORK_STATUS, handle, 1, 2)
    worker.send(KIND.WORK_DATA, handle, b"two")
    worker.send(KIND.WORK_COMPLETE, handle, b"end")

    assert [client.next() for _ in range(5)] == [
        Packet.response(KIND.WORK_DATA, handle, b"one"),
        Packet.response(KIND.WORK_WARNING, handle, b"care"),
        Packet.response(KIND.WORK_STATUS, handle, 1, 2),
        Packet.response(KIND.WORK_DATA, handle, b"two"),
        Packet.response(KIND.WORK_COMPLETE, handle, b"end"),
    ]


def test_a_failure_is_told(peers: Any) -> None:
    client, worker = peers(), peers("f")
    handle = client.submit("f", b"")
    grab(worker)

    worker.send(KIND.WORK_FAIL, handle)

    assert client.next() == Packet.response(KIND.WORK_FAIL, handle)
    assert status_of(client, handle) == (0, 0, 0, 0)


def test_an_exception_is_told_to_who_asked_for_it_and_is_a_failure_for_others(peers: Any) -> None:
    plain, hearing, worker = peers(), peers().hear_exceptions(), peers("f")
    handle = plain.submit("f", b"", unique="same")
    assert hearing.submit("f", b"", unique="same") == handle
    grab(worker)

    worker.send(KIND.WORK_EXCEPTION, handle, b"why")
    worker.send(KIND.WORK_FAIL, handle)

    assert plain.next() == Packet.response(KIND.WORK_FAIL, handle)
    assert hearing.next() == Packet.response(KIND.WORK_EXCEPTION, handle, b"why")
    assert worker.next().field("code") == b"JOB_NOT_FOUND"
    nothing_comes(hearing)


def test_a_background_job_that_failed_is_not_done_again(peers: Any) -> None:
    client, worker = peers(), peers("f")
    handle = client.submit("f", b"", background=True)
    grab(worker)

    worker.send(KIND.WORK_FAIL, handle)

    assert grab(worker).type is KIND.NO_JOB


@pytest.mark.parametrize(
    "report",
    [
        (KIND.WORK_COMPLETE, b""), (KIND.WORK_FAIL,), (KIND.WORK_EXCEPTION, b""), (KIND.WORK_DATA, b""),
        (KIND.WORK_WARNING, b""), (KIND.WORK_STATUS, 1, 2),
    ],
)  # fmt: skip
def test_a_report_of_a_job_that_is_another_workers_is_refused(peers: Any, report: tuple[Any, ...]) -> None:
    client, worker, other = peers(), peers("f"), peers("f")
    handle = client.submit("f", b"")
    grab(worker)
    kind, *args = report

    other.send(kind, handle, *args)
    other.send(KIND.ECHO_REQ, b"")

    assert other.next().field("code") == b"JOB_NOT_FOUND"
    assert other.next().type is KIND.ECHO_RES
    worker.send(KIND.WORK_COMPLETE, handle, b"mine")
    assert client.ended().data == b"mine"


# -- peers that go away ----------------------------------------------------------------------------------------------


def test_the_job_of_a_worker_that_went_away_goes_to_another_under_the_same_handle(peers: Any) -> None:
    client, worker, other = peers(), peers("f"), peers("f")
    handle = client.submit("f", b"data")
    grab(worker)
    assert grab(other).type is KIND.NO_JOB
    other.send(KIND.PRE_SLEEP)
    sync(other)

    worker.close()

    assert other.next().type is KIND.NOOP
    assert grab(other).args[0] == handle
    other.send(KIND.WORK_COMPLETE, handle, b"done")
    assert client.ended().data == b"done"


def test_a_foreground_job_whose_client_went_away_is_not_run(peers: Any) -> None:
    client, worker, watcher = peers(), peers(), peers()
    handle = client.submit("f", b"")
    kept = watcher.submit("f", b"kept", background=True)
    client.close()
    time.sleep(0.1)
    until(lambda: watcher is not None)

    worker.send(KIND.CAN_DO, "f")

    def only_the_other() -> bool:
        return grab_job(worker).args[0] == kept

    assert only_the_other()
    assert grab(worker).type is KIND.NO_JOB
    assert status_of(watcher, handle)[0] == 0


def test_a_job_that_runs_goes_on_without_its_client(peers: Any) -> None:
    client, worker = peers(), peers("f")
    handle = client.submit("f", b"")
    grab(worker)

    client.close()
    time.sleep(0.1)
    worker.send(KIND.WORK_COMPLETE, handle, b"for nobody")
    worker.send(KIND.ECHO_REQ, b"next")

    assert worker.next() == Packet.response(KIND.ECHO_RES, b"next")


# -- coalescing ------------------------------------------------------------------------------------------------------


def test_all_clients_of_one_unique_key_await_one_job(peers: Any) -> None:
    first, second, worker = peers(), peers(), peers("f")
    handle = first.submit("f", b"1", unique="same")

    assert second.submit("f", b"2", unique="same") == handle
    assert grab(worker).data == b"1"
    assert grab(worker).type is KIND.NO_JOB
    worker.send(KIND.WORK_COMPLETE, handle, b"both")

    assert first.next() == second.next() == Packet.response(KIND.WORK_COMPLETE, handle, b"both")


def test_a_unique_key_is_free_again_once_its_job_has_ended(peers: Any) -> None:
    client, worker = peers(), peers("f")
    handle = client.submit("f", b"", unique="same", background=True)
    grab(worker)
    assert client.submit("f", b"", unique="same", background=True) == handle  # while it runs too
    worker.send(KIND.WORK_COMPLETE, handle, b"")
    sync(worker)

    assert client.submit("f", b"", unique="same", background=True) != handle
    assert grab(worker).type is KIND.JOB_ASSIGN_UNIQ


def test_a_unique_key_holds_for_one_function_and_whatever_the_priority(peers: Any) -> None:
    client = peers()
    handle = client.submit("f", b"", unique="same", background=True)

    assert client.submit("g", b"", unique="same", background=True) != handle
    client.send(KIND.SUBMIT_JOB_HIGH_BG, "f", "same", b"")
    assert client.next().args[0] == handle


def test_a_dash_as_unique_key_means_the_data(peers: Any) -> None:
    client, worker = peers(), peers("f")
    handle = client.submit("f", b"one", unique="-", background=True)

    assert client.submit("f", b"one", unique="-", background=True) == handle
    assert client.submit("f", b"two", unique="-", background=True) != handle
    assert grab(worker).unique == b"-"


def test_too_long_a_unique_key_is_refused(peers: Any) -> None:
    client = peers()

    client.send(KIND.SUBMIT_JOB_BG, "f", "u" * 65, b"")

    assert client.next().field("code") == b"ARGUMENT_TOO_LARGE"
    sync(client)


# -- how jobs stand --------------------------------------------------------------------------------------------------


def test_the_status_of_a_job(peers: Any) -> None:
    client, worker = peers(), peers("f")
    handle = client.submit("f", b"", background=True)

    assert status_of(client, handle) == (1, 0, 0, 0)
    grab(worker)
    assert status_of(client, handle) == (1, 1, 0, 0)
    worker.send(KIND.WORK_STATUS, handle, 3, 10)
    sync(worker)
    assert status_of(client, handle) == (1, 1, 3, 10)
    worker.send(KIND.WORK_COMPLETE, handle, b"")
    sync(worker)
    assert status_of(client, handle) == (0, 0, 0, 0)
    assert status_of(client, b"H:nobody:1") == (0, 0, 0, 0)


def test_the_status_of_a_unique_key(peers: Any) -> None:
    client, worker = peers(), peers("f")
    client.submit("f", b"", unique="key")

    def ask() -> tuple[bytes, ...]:
        client.send(KIND.GET_STATUS_UNIQUE, "key")
        packet = client.next()
        assert packet.type is KIND.STATUS_RES_UNIQUE
        return packet.args

    assert ask() == (b"key", b"1", b"0", b"0", b"0", b"1")
    handle = grab(worker).handle
    worker.send(KIND.WORK_STATUS, handle, 1, 4)
    sync(worker)
    assert client.next().type is KIND.WORK_STATUS
    assert ask() == (b"key", b"1", b"1", b"1", b"4", b"1")
    client.send(KIND.GET_STATUS_UNIQUE, "other")
    assert client.next().args == (b"other", b"0", b"0", b"0", b"0", b"0")


# -- later -----------------------------------------------------------------------------------------------------------


def test_a_job_for_later_is_not_given_before(peers: Any) -> None:
    client, worker = peers(), peers("f")
    client.send(KIND.SUBMIT_JOB_EPOCH, "f", "", int(time.time()) + 3600, b"later")
    handle = client.next().handle

    assert grab(worker).type is KIND.NO_JOB
    assert status_of(client, handle) == (1, 0, 0, 0)


def test_a_job_for_now_is_given_at_once(peers: Any) -> None:
    client, worker = peers(), peers("f")
    client.send(KIND.SUBMIT_JOB_EPOCH, "f", "", int(time.time()) - 5, b"now")
    client.next()

    assert grab_job(worker).data == b"now"


# -- options and nonsense --------------------------------------------------------------------------------------------


def test_an_unknown_option_is_refused(peers: Any) -> None:
    client = peers()

    client.send(KIND.OPTION_REQ, "nonsense")

    assert client.next().field("code") == b"UNKNOWN_OPTION"
    sync(client)


def test_an_echo_comes_back_whole(peers: Any) -> None:
    client = peers()
    data = bytes(range(256)) * 400

    client.send(KIND.ECHO_REQ, data)

    assert client.next() == Packet.response(KIND.ECHO_RES, data)


# -- text ------------------------------------------------------------------------------------------------------------


def ask(server: Gearmand, command: str) -> str:
    """The one line that answers a command."""
    with socket.create_connection(("127.0.0.1", server.port), LIMIT) as link:
        link.sendall(command.encode() + b"\r\n")
        text = b""
        while not text.endswith(b"\n"):
            more = link.recv(4096)
            assert more, text
            text += more
    return text.decode()


def test_status_counts_jobs_and_workers(server: Gearmand, peers: Any) -> None:
    client, worker, other = peers(), peers("f"), peers("f")
    client.submit("f", b"", background=True)
    client.submit("f", b"", background=True)
    grab(worker)
    sync(other)

    assert server.status("f") == (2, 1, 2)
    rows = {line[0]: line[1:] for line in server.admin("prioritystatus")}
    assert rows["f"] == ["0", "1", "0", "2"]


def test_workers_lists_connections_with_their_functions(server: Gearmand, peers: Any) -> None:
    worker = peers("f", "g")
    worker.send(KIND.SET_CLIENT_ID, "me-1")
    sync(worker)

    (line,) = [line[0] for line in server.admin("workers") if "me-1" in line[0]]

    fd, address, client_id, colon, *functions = line.split()
    assert fd.isdigit() and (address, client_id, colon) == ("127.0.0.1", "me-1", ":")
    assert sorted(functions) == ["f", "g"]


def test_jobs_and_unique_keys_are_shown(server: Gearmand, peers: Any) -> None:
    client = peers()
    handle = client.submit("f", b"", background=True, unique="key").decode()

    assert server.admin("show jobs") == [[handle, "0", "0", "1"]]
    assert server.admin("show unique jobs") == [["key"]]


def test_a_cancelled_job_is_told_to_its_clients_and_not_run(server: Gearmand, peers: Any) -> None:
    client, worker = peers(), peers("f")
    handle = client.submit("f", b"")

    assert ask(server, f"cancel job {handle.decode()}") == "OK\r\n"
    assert client.next() == Packet.response(KIND.WORK_FAIL, handle)
    assert grab(worker).type is KIND.NO_JOB
    assert ask(server, "cancel job H:nobody:1") == "ERR UNKNOWN_JOB\r\n"


def test_a_full_queue_takes_no_more(server: Gearmand, peers: Any) -> None:
    client, worker = peers(), peers("f")
    sync(worker)
    assert ask(server, "maxqueue f 2") == "OK\r\n"
    for _ in range(3):
        client.send(KIND.SUBMIT_JOB_BG, "f", "", b"")

    answers = [client.next() for _ in range(3)]

    assert [packet.type for packet in answers] == [KIND.JOB_CREATED, KIND.JOB_CREATED, KIND.ERROR]
    assert answers[2].args == (b"QUEUE_ERROR", b"Job queue is full")
    client.submit("g", b"", background=True)
    assert ask(server, "maxqueue f") == "OK\r\n"
    client.submit("f", b"", background=True)


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("nonsense", "ERR UNKNOWN_COMMAND Unknown+server+commandnonsense\r\n"),
        ("maxqueue", "ERR INVALID_ARGUMENTS An+incomplete+set+of+arguments+was+sent+to+this+command+maxqueue\r\n"),
        ("show nonsense", "ERR UNKNOWN_SHOW_ARGUMENTS\r\n"),
        ("show", "ERR UNKNOWN_COMMAND Unknown+server+commandshow\r\n"),
        ("create function abc", "OK\r\n"),
        ("drop function nobody", "ERR function not found\r\n"),
        ("VERSION", "OK "),
        ("getpid", "OK "),
        ("verbose", "OK "),
    ],
)
def test_the_words_of_the_admin_protocol(server: Gearmand, command: str, answer: str) -> None:
    assert ask(server, command).startswith(answer)


def test_text_and_packets_may_follow_each_other(server: Gearmand, peers: Any) -> None:
    client = peers()

    client.socket.sendall(b"version\n" + Packet.request(KIND.ECHO_REQ, b"x").encode())

    data = b""
    client.socket.settimeout(LIMIT)
    while not data.endswith(Packet.response(KIND.ECHO_RES, b"x").encode()):
        data += client.socket.recv(4096)
    assert data.startswith(b"OK ")


# -- peers that nobody here wrote ------------------------------------------------------------------------------------


def test_the_c_client_and_the_c_worker(server: Gearmand) -> None:
    gearman = find("gearman", "gearman-tools")
    worker = subprocess.Popen([gearman, "-p", str(server.port), "-w", "-f", "upper", "--", "tr", "a-z", "A-Z"])
    try:
        until(lambda: server.status("upper")[2] == 1)
        said = [
            subprocess.run(
                [gearman, "-p", str(server.port), "-f", "upper", f"word {n}"],
                stdout=subprocess.PIPE, timeout=LIMIT, check=True,
            ).stdout
            for n in range(5)
        ]  # fmt: skip
    finally:
        worker.kill()
        worker.wait()

    assert said == [f"WORD {n}".encode() for n in range(5)]


def test_gearadmin(server: Gearmand) -> None:
    gearadmin = find("gearadmin", "gearman-tools")

    def said(option: str) -> str:
        command = [gearadmin, "-p", str(server.port), option]
        return subprocess.run(command, stdout=subprocess.PIPE, timeout=LIMIT, check=True, text=True).stdout

    assert said("--status").endswith(".\n")
    assert "127.0.0.1" in said("--workers")
    assert said("--server-version").strip()
    assert said("--getpid").strip().isdigit()
