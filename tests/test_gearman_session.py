"""A client's session with its servers: what is read, what is sent again, and where servers are."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Sequence
from typing import Any

import pytest
from gearman_scripted import CLOSE, CREATED, Scripted, complete
from pools import LIMIT
from programs import free_port

from skunkqueue.errors import SkunkError, WrongCall
from skunkqueue.gearman import (
    AsyncClient,
    GearmanException,
    RemoteException,
    ServerRefused,
    ServerUnavailable,
    SimpleClient,
    UnreadableAnswer,
)
from skunkqueue.gearman.connection import Failover, JobServer, ServerConnection, parse_hosts
from skunkqueue.gearman.errors import ProtocolError
from skunkqueue.gearman.protocol import Line, Packet, PacketType

# -- created and complete at once ------------------------------------------------------------------------------------


def test_created_and_complete_in_one_write_are_both_read() -> None:
    with Scripted(lambda packet: [CREATED + complete("done")]) as server, SimpleClient(server.host) as client:
        answers = [client.w_echo(text="x") for _ in range(50)]

    assert answers == ["done"] * 50


def test_created_and_complete_in_every_split_are_both_read() -> None:
    both = CREATED + complete("done")
    cuts = iter(range(1, len(both)))

    def answer(packet: Packet) -> Sequence[bytes]:
        at = next(cuts)
        return [both[:at], both[at:]]

    with Scripted(answer) as server, SimpleClient(server.host) as client:
        answers = [client.w_echo(text="x") for _ in range(len(both) - 1)]

    assert answers == ["done"] * (len(both) - 1)


def test_many_jobs_in_one_read_each_get_their_own_answer() -> None:
    waiting: list[str] = []

    def answer(packet: Packet) -> Sequence[bytes]:
        waiting.append(json.loads(packet.data)["n"])
        created = Packet.response(PacketType.JOB_CREATED, f"H:{waiting[-1]}").encode()
        if len(waiting) < 20:
            return [created]
        return [created + b"".join(complete(n, f"H:{n}") for n in reversed(waiting))]

    with Scripted(answer) as server, AsyncClient(server.host) as client:
        handles = [client.w_echo(n=n) for n in range(20)]

        assert [handle.get_result(LIMIT) for handle in handles] == list(range(20))


# -- what a server may do to a client --------------------------------------------------------------------------------


def test_a_job_whose_connection_broke_is_submitted_again_with_its_unique_key() -> None:
    answers = iter([[CLOSE], [CREATED, CLOSE], [CREATED + complete("done")]])

    with Scripted(lambda packet: next(answers)) as server, SimpleClient(server.host) as client:
        answer = client.w_echo(text="x")

    assert answer == "done"
    assert len({packet.unique for packet in server.submitted}) == 1
    assert len(server.submitted) == server.connections == 3


def test_a_background_job_that_was_not_accepted_is_submitted_again() -> None:
    answers = iter([[CLOSE], [CREATED]])

    with Scripted(lambda packet: next(answers)) as server, SimpleClient(server.host) as client:
        handle = client.background.w_echo(text="x")

    assert handle.handle == "H:1"
    assert [packet.type for packet in server.submitted] == [PacketType.SUBMIT_JOB_BG] * 2
    assert len({packet.unique for packet in server.submitted}) == 1


def test_a_job_that_breaks_every_connection_is_given_up() -> None:
    with (
        Scripted(lambda packet: [CLOSE]) as server,
        SimpleClient(server.host) as client,
        pytest.raises(ServerUnavailable, match="broke 10 times"),
    ):
        client.w_echo(text="x")


@pytest.mark.parametrize(
    "write",
    [
        b"\0REX" + b"\0" * 8,
        b"HTTP/1.1 400 Bad Request\r\n",
        Packet.response(PacketType.STATUS_RES, "H:1", 0, 0, 0, 0).encode(),
        CREATED * 2,
    ],
    ids=["noise", "text", "an answer to something else", "an answer to nothing"],
)
def test_a_server_that_talks_nonsense_costs_its_connection(write: bytes) -> None:
    writes = iter([[write]])

    def answer(packet: Packet) -> Sequence[bytes]:
        return next(writes, [CREATED + complete("done")])

    with Scripted(answer) as server, SimpleClient(server.host) as client:
        assert client.w_echo(text="x") == "done"
        assert server.connections == 2


def test_a_second_ending_of_a_job_is_ignored() -> None:
    failed = Packet.response(PacketType.WORK_EXCEPTION, "H:1", "boom").encode()
    fail = Packet.response(PacketType.WORK_FAIL, "H:1").encode()

    with Scripted(lambda packet: [CREATED + failed + fail]) as server, SimpleClient(server.host) as client:
        for _ in range(3):
            with pytest.raises(RemoteException, match="boom"):
                client.w_echo(text="x")
        assert server.connections == 1


def test_a_refused_job_says_why() -> None:
    error = Packet.response(PacketType.ERROR, "QUEUE_FULL", "too many").encode()

    with (
        Scripted(lambda packet: [error]) as server,
        SimpleClient(server.host) as client,
        pytest.raises(ServerRefused, match="QUEUE_FULL: too many") as raised,
    ):
        client.w_echo(text="x")

    assert raised.value.code == "QUEUE_FULL"


def test_an_answer_that_is_no_json_is_one_clear_error() -> None:
    bad = Packet.response(PacketType.WORK_COMPLETE, "H:1", b"\xff{").encode()

    with (
        Scripted(lambda packet: [CREATED + bad]) as server,
        SimpleClient(server.host) as client,
        pytest.raises(UnreadableAnswer, match="the answer of w_echo cannot be decoded") as raised,
    ):
        client.w_echo(text="x")

    assert raised.value.data == b"\xff{"


def test_no_data_at_all_is_none() -> None:
    nothing = Packet.response(PacketType.WORK_COMPLETE, "H:1", b"").encode()

    with Scripted(lambda packet: [CREATED + nothing]) as server, SimpleClient(server.host) as client:
        assert client.w_echo(text="x") is None


def test_a_job_that_waits_for_a_server_that_is_away_fails_after_patience() -> None:
    with Scripted(lambda packet: [CLOSE]) as server:
        client = AsyncClient(server.host, patience=0.3)
        server._listener.close()
        with pytest.raises(ServerUnavailable):
            client.w_echo(text="x").get_result(LIMIT)


def test_a_silent_server_is_asked_for_a_sign_of_life_and_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skunkqueue.gearman.session.PROVE", 0.05)
    monkeypatch.setattr("skunkqueue.gearman.session.UNANSWERED", 0.05)
    silent = socket.create_server(("127.0.0.1", 0))

    with silent, Scripted(lambda packet: [CREATED + complete("done")]) as server:
        client = SimpleClient([silent.getsockname(), server.host])

        assert client.w_echo(text="x") == "done"
        client.close()


def test_an_idle_hour_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skunkqueue.gearman.session.PROVE", 0.05)
    with Scripted(lambda packet: [CREATED + complete("done")]) as server, SimpleClient(server.host) as client:
        assert client.w_echo(text="x") == "done"
        time.sleep(0.2)

        assert client.w_echo(text="x") == "done"
        assert server.connections == 1


# -- hosts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("localhost:4730", JobServer("localhost", 4730)),
        ("host", JobServer("host", 4730)),
        (" host:1 ", JobServer("host", 1)),
        ("[::1]:7003", JobServer("::1", 7003)),
        ("[::1]", JobServer("::1", 4730)),
        (("host", 7), JobServer("host", 7)),
    ],
)
def test_hosts_are_read(text: Any, server: JobServer) -> None:
    assert parse_hosts([text]) == (server,)
    assert parse_hosts(str(server)) == (server,)


@pytest.mark.parametrize(
    ("hosts", "words"),
    [
        ([], "names no server"),
        ("", "a host is like"),
        (["::1"], r"IPv6 host is in brackets, like '\[::1\]'"),
        (["[::1"], "in brackets"),
        (["[::1]4730"], "in brackets"),
        (["host:"], "a port is a number"),
        (["[::1]:"], "a port is a number"),
        (["host:x"], "a port is a number from 1 to 65535"),
        (["host:65536"], "a port is a number from 1 to 65535"),
        (["host:0"], "a port is a number from 1 to 65535"),
        (["gearman://host:4730"], "IPv6 host is in brackets|a host is like|a port"),
        ([":4730"], "a host is like"),
        (["a host:1"], "a host is like"),
        ([4730], "a host is a text"),
        ([("host", "1", 2)], "a host as a tuple"),
        ([("host", True)], "a port is a number"),
        (b"host", "hosts is a list"),
        (4730, "hosts is a list"),
    ],
)
def test_a_wrong_host_gets_a_sentence(hosts: Any, words: str) -> None:
    with pytest.raises(WrongCall, match=words):
        SimpleClient(hosts)


def test_several_hosts_in_one_text_are_each_taken_once() -> None:
    assert parse_hosts("a:1,b:2,a:1") == (JobServer("a", 1), JobServer("b", 2))


def test_without_a_server_there_is_one_clear_error() -> None:
    first, second = free_port(), free_port()

    with pytest.raises(ServerUnavailable) as raised:
        SimpleClient([f"127.0.0.1:{first}", f"127.0.0.1:{second}"]).w_echo(text="x")

    assert str(first) in str(raised.value)
    assert str(second) in str(raised.value)
    assert isinstance(raised.value, GearmanException)
    assert isinstance(raised.value, SkunkError)


def test_a_socket_that_was_connected_with_itself_is_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as alone:
        alone.bind(("127.0.0.1", 0))
        alone.connect(alone.getsockname())
        monkeypatch.setattr(socket, "create_connection", lambda *args: alone)

        with pytest.raises(ServerUnavailable, match="nobody listens there"):
            ServerConnection(JobServer("127.0.0.1", alone.getsockname()[1]))
        assert alone.fileno() < 0


def test_a_client_that_was_closed_comes_back_to_its_first_server() -> None:
    with (
        Scripted(lambda packet: [CREATED + complete("first")]) as first,
        Scripted(lambda packet: [CREATED + complete("second")]) as second,
        SimpleClient([first.host, second.host]) as client,
    ):
        assert client.w_echo(text="x") == "first"
        client.close()
        assert client.w_echo(text="x") == "first"


def test_the_first_server_that_can_be_reached_is_used() -> None:
    with Scripted(lambda packet: [CREATED + complete("done")]) as server:
        client = SimpleClient([f"127.0.0.1:{free_port()}", server.host])

        assert client.w_echo(text="x") == "done"
        client.close()


def test_a_server_that_failed_comes_last_for_a_moment() -> None:
    tried: list[JobServer] = []

    def open(server: JobServer) -> ServerConnection:
        tried.append(server)
        raise ServerUnavailable(f"{server} is away")

    servers = [JobServer("a"), JobServer("b")]
    failover = Failover(servers, open)
    failover.lost(servers[0])

    with pytest.raises(ServerUnavailable, match="b:4730 is away; a:4730 is away"):
        failover.connect()

    assert tried == [JobServer("b"), JobServer("a")]


def test_what_is_sent_to_a_server_that_does_not_read_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        connection = ServerConnection(JobServer(*deaf.getsockname()), send_timeout=0.1)

        with pytest.raises(ServerUnavailable, match="has read nothing"):
            connection.send(Packet.request(PacketType.ECHO_REQ, bytes(32 << 20)))


def test_sending_and_receiving_much_at_once_blocks_neither_side() -> None:
    """The server writes each echo before it reads on: who only sends would wait for ever."""
    size = 1 << 20

    with Scripted(lambda packet: []) as server:
        connection = ServerConnection(JobServer("127.0.0.1", server.port))
        connection.send(*[Packet.request(PacketType.ECHO_REQ, bytes(size)) for _ in range(40)])
        found: list[Packet | Line] = []
        while len(found) < 40:
            found += connection.receive(LIMIT)
        connection.close()

    assert all(isinstance(packet, Packet) and len(packet.data) == size for packet in found)


def test_what_came_ahead_of_noise_is_received_before_the_error() -> None:
    with Scripted(lambda packet: [CREATED + b"\0nonsense....."]) as server:
        connection = ServerConnection(JobServer("127.0.0.1", server.port))
        connection.send(Packet.request(PacketType.SUBMIT_JOB, "f", "u", ""))

        assert connection.receive(LIMIT) == [Packet.response(PacketType.JOB_CREATED, "H:1")]
        with pytest.raises(ProtocolError):
            connection.receive(LIMIT)
        assert not connection.is_open
