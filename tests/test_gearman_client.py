"""Calls of Gearman functions: what is sent, what comes back, in threads, loops and forks."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
from gearman_scripted import CREATED, Scripted, complete, grab, worker
from gearman_servers import Gearmand, Peer, gearmand, started  # noqa: F401 - a fixture
from pools import LIMIT, until

from skunkqueue.errors import WrongCall
from skunkqueue.gearman import (
    AsyncClient,
    DataEncoder,
    GearmanException,
    JobUnfinished,
    RemoteException,
    SimpleClient,
    WorkFailed,
)
from skunkqueue.gearman.protocol import Packet, PacketType

# -- calls -----------------------------------------------------------------------------------------------------------


def test_positional_arguments_are_a_clear_type_error() -> None:
    with pytest.raises(TypeError, match="w_echo takes arguments by keyword only"):
        SimpleClient("127.0.0.1:1").w_echo("text")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda client: client.w_echo(text={1}), "the argument 'text' of w_echo cannot be sent"),
        (lambda client: client.options(priority="urgent"), "'high', 'normal' or 'low'"),
        (lambda client: client.options(unique="u" * 64), "1 to 63 bytes"),
        (lambda client: client.options(unique=""), "1 to 63 bytes"),
        (lambda client: client.options(timeout=-1), "timeout"),
        (lambda client: client.options(at=5).w_echo(), "background job of normal priority"),
        (lambda client: client["two words"], "text without spaces"),
    ],
)
def test_a_wrong_call_gets_a_sentence(call: Callable[[SimpleClient], Any], words: str) -> None:
    with (
        Scripted(lambda packet: [CREATED + complete(None)]) as server,
        SimpleClient(server.host) as client,
        pytest.raises(WrongCall, match=words),
    ):
        call(client)


def test_private_names_are_no_functions() -> None:
    with pytest.raises(AttributeError, match="_repr_html_"):
        _ = SimpleClient("127.0.0.1:1")._repr_html_


@pytest.mark.parametrize(
    ("view", "type"),
    [
        (lambda client: client, PacketType.SUBMIT_JOB),
        (lambda client: client.high, PacketType.SUBMIT_JOB_HIGH),
        (lambda client: client.low, PacketType.SUBMIT_JOB_LOW),
        (lambda client: client.background, PacketType.SUBMIT_JOB_BG),
        (lambda client: client.background.high, PacketType.SUBMIT_JOB_HIGH_BG),
        (lambda client: client.low.background, PacketType.SUBMIT_JOB_LOW_BG),
        (lambda client: client.background.options(at=1_900_000_000.5), PacketType.SUBMIT_JOB_EPOCH),
    ],
)
def test_views_submit_each_kind_of_job(view: Callable[[SimpleClient], SimpleClient], type: PacketType) -> None:
    with Scripted(lambda packet: [CREATED + complete("done")]) as server, SimpleClient(server.host) as client:
        view(client).options(unique="key").w_echo(text="x")

    (packet,) = server.submitted
    assert packet.type is type
    assert packet.unique == b"key"
    assert json.loads(packet.data) == {"text": "x"}
    if type is PacketType.SUBMIT_JOB_EPOCH:
        assert packet.field("epoch") == b"1900000001"


def test_another_encoder_makes_the_data() -> None:
    class Upper(DataEncoder):
        @classmethod
        def encode(cls, value: Any) -> bytes:
            return repr(value).upper().encode()

        @classmethod
        def decode(cls, data: bytes) -> Any:
            return data.decode().lower()

    done = Packet.response(PacketType.WORK_COMPLETE, "H:1", b"DONE").encode()
    with Scripted(lambda packet: [CREATED + done]) as server, SimpleClient(server.host, data_encoder=Upper) as client:
        assert client.w_echo(text="x") == "done"

    assert server.submitted[0].data == b"{'TEXT': 'X'}"


# -- with a real gearmand --------------------------------------------------------------------------------------------


def test_an_asynchronous_job_is_done_when_it_is_done(gearmand: Gearmand) -> None:  # noqa: F811
    with worker(gearmand, "w_echo") as peer, AsyncClient(gearmand.server) as client:
        handle = client.w_echo(text="x")

        assert not handle.is_done()
        with pytest.raises(GearmanException, match=r"w_echo was not done after 0\.05 s"):
            handle.get_result(timeout=0.05)
        job = grab(peer)
        assert job.args[1:] == (b"w_echo", handle.unique.encode(), b'{"text": "x"}')
        peer.send(PacketType.WORK_STATUS, job.handle, 1, 4)
        until(lambda: handle.status.denominator == 4)
        assert handle.status == (True, True, 1, 4)
        peer.send(PacketType.WORK_COMPLETE, job.handle, '"done"')
        until(handle.is_done)
        assert handle.get_result() == "done"


def test_updates_are_told_as_they_come(gearmand: Gearmand) -> None:  # noqa: F811
    with worker(gearmand, "w_echo") as peer, AsyncClient(gearmand.server) as client:
        handle = client.w_echo(text="x")
        updates = handle.updates(LIMIT)
        job = grab(peer)

        peer.send(PacketType.WORK_DATA, job.handle, "1")
        assert next(updates) == ("data", 1)
        peer.send(PacketType.WORK_WARNING, job.handle, '"careful"')
        assert next(updates) == ("warning", "careful")
        peer.send(PacketType.WORK_STATUS, job.handle, 1, 2)
        assert next(updates) == ("status", (1, 2))
        with pytest.raises(JobUnfinished, match=r"sent nothing for 0\.05 s"):
            list(handle.updates(0.05))
        peer.send(PacketType.WORK_DATA, job.handle, "2")
        peer.send(PacketType.WORK_COMPLETE, job.handle, "3")
        assert list(updates) == [("data", 2)]
        assert list(handle.data()) == [1, 2]
        assert handle.get_result() == 3


def test_a_workers_exception_is_raised_with_its_text(gearmand: Gearmand) -> None:  # noqa: F811
    with worker(gearmand, "w_echo") as peer, AsyncClient(gearmand.server) as client:
        loud, mute = client.w_echo(text="loud"), client.w_echo(text="mute")
        for _ in range(2):
            job = grab(peer)
            if json.loads(job.data)["text"] == "loud":
                peer.send(PacketType.WORK_EXCEPTION, job.handle, "ValueError: no")
            else:
                peer.send(PacketType.WORK_FAIL, job.handle)

        with pytest.raises(RemoteException, match="ValueError: no"):
            loud.get_result(LIMIT)
        with pytest.raises(WorkFailed, match="did not say why"):
            mute.get_result(LIMIT)


def test_a_background_job_is_followed_by_its_status(gearmand: Gearmand) -> None:  # noqa: F811
    with worker(gearmand, "w_add") as peer, SimpleClient(gearmand.server) as client:
        handle = client.background.w_add(a=1, b=2)

        assert handle.handle.startswith("H:")
        assert handle.is_done()
        assert handle.status == (True, False, 0, 0)
        job = grab(peer)
        peer.send(PacketType.WORK_STATUS, job.handle, 1, 3)
        until(lambda: handle.status == (True, True, 1, 3))
        peer.send(PacketType.WORK_COMPLETE, job.handle, "3")
        until(lambda: not handle.status.known)
        assert handle.get_result() is None


def test_priorities_are_honoured(gearmand: Gearmand) -> None:  # noqa: F811
    with SimpleClient(gearmand.server) as client, worker(gearmand, "w") as peer:
        for view in (client.low, client, client.high):
            view.background.w(priority=view._options.priority)

        assert [json.loads(grab(peer).data)["priority"] for _ in range(3)] == ["high", "normal", "low"]


def test_jobs_of_one_unique_key_are_one_job(gearmand: Gearmand) -> None:  # noqa: F811
    with (
        worker(gearmand, "w_echo") as peer,
        AsyncClient(gearmand.server) as first,
        AsyncClient(gearmand.server) as second,
    ):
        mine = [first.options(unique="k").w_echo(text=text) for text in "ab"]
        mine[0].wait_accepted(LIMIT)  # a server takes the jobs of two connections in any order
        yours = second.options(unique="k").w_echo(text="c")
        yours.wait_accepted(LIMIT)
        job = grab(peer)
        peer.send(PacketType.WORK_DATA, job.handle, '"part"')
        peer.send(PacketType.WORK_COMPLETE, job.handle, job.data)
        handles = [*mine, yours]

        assert [handle.get_result(LIMIT) for handle in handles] == [{"text": "a"}] * 3
        assert [list(handle.data()) for handle in handles] == [["part"]] * 3
        peer.send(PacketType.GRAB_JOB_UNIQ)
        assert peer.next().type is PacketType.NO_JOB


def test_a_client_survives_a_restart_of_its_server(gearmand: Gearmand) -> None:  # noqa: F811
    with AsyncClient(gearmand.server) as client:
        handle = client.w_echo(text="x")
        handle.wait_accepted(LIMIT)

        gearmand.kill()
        gearmand.start()

        with worker(gearmand, "w_echo") as peer:
            until(lambda: handle.is_done() or gearmand.status("w_echo")[0] == 1)
            job = grab(peer)
            assert job.unique.decode() == handle.unique
            peer.send(PacketType.WORK_COMPLETE, job.handle, "1")
            assert handle.get_result(LIMIT) == 1


def test_what_is_lost_with_one_server_goes_to_the_next(gearmand: Gearmand) -> None:  # noqa: F811
    with started() as other, AsyncClient([other.server, gearmand.server]) as client:
        handles = [client.w_echo(n=n) for n in range(5)]
        for handle in handles:
            handle.wait_accepted(LIMIT)
        other.kill()

        with worker(gearmand, "w_echo") as peer:
            assert not handles[0].is_done()  # notices, and submits them all to the other
            for _ in handles:
                job = grab(peer)
                peer.send(PacketType.WORK_COMPLETE, job.handle, job.data)
            assert [handle.get_result(LIMIT) for handle in handles] == [{"n": n} for n in range(5)]


def answer_all(peer: Peer, count: int) -> None:
    for _ in range(count):
        job = grab(peer)
        peer.send(PacketType.WORK_COMPLETE, job.handle, job.data)


def test_many_threads_share_a_client(gearmand: Gearmand) -> None:  # noqa: F811
    found: dict[int, Any] = {}
    with worker(gearmand, "w_echo") as peer, SimpleClient(gearmand.server) as client:
        threads = [
            threading.Thread(target=lambda n=n: found.__setitem__(n, [client.w_echo(n=n, i=i) for i in range(5)]))
            for n in range(8)
        ]
        for thread in threads:
            thread.start()
        answer_all(peer, 40)
        for thread in threads:
            thread.join(LIMIT)

    assert found == {n: [{"n": n, "i": i} for i in range(5)] for n in range(8)}


def test_jobs_are_awaited(gearmand: Gearmand) -> None:  # noqa: F811
    async def main() -> tuple[list[Any], list[Any], Any]:
        handles = [client.w_echo(n=n) for n in range(10)]
        threading.Thread(target=answer_all, args=(peer, 10), daemon=True).start()
        answers = await asyncio.wait_for(asyncio.gather(*handles), LIMIT)
        handle = client.w_echo(n=1)
        threading.Thread(target=talk, daemon=True).start()
        updates = [update async for update in handle]
        return answers, updates, await handle

    def talk() -> None:
        job = grab(peer)
        peer.send(PacketType.WORK_STATUS, job.handle, 1, 2)
        peer.send(PacketType.WORK_DATA, job.handle, "5")
        peer.send(PacketType.WORK_COMPLETE, job.handle, "6")

    with worker(gearmand, "w_echo") as peer, AsyncClient(gearmand.server) as client:
        answers, updates, last = asyncio.run(main())

    assert answers == [{"n": n} for n in range(10)]
    assert updates == [("status", (1, 2)), ("data", 5)]
    assert last == 6


def test_awaiting_can_be_cancelled_and_failures_are_raised(gearmand: Gearmand) -> None:  # noqa: F811
    async def main() -> None:
        handle = client.w_echo(text="x")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_await(handle), 0.05)
        job = await asyncio.to_thread(grab, peer)
        peer.send(PacketType.WORK_EXCEPTION, job.handle, "boom")
        with pytest.raises(RemoteException, match="boom"):
            await asyncio.wait_for(_await(handle), LIMIT)

    with worker(gearmand, "w_echo") as peer, AsyncClient(gearmand.server) as client:
        asyncio.run(main())
        until(lambda: not client._session._pumping)


async def _await(handle: Any) -> Any:
    return await handle


def test_a_fork_opens_a_connection_of_its_own(gearmand: Gearmand) -> None:  # noqa: F811
    with worker(gearmand, "w_echo") as peer, SimpleClient(gearmand.server) as client:
        thread = threading.Thread(target=answer_all, args=(peer, 3), daemon=True)
        thread.start()
        assert client.w_echo(n=1) == {"n": 1}

        child = os.fork()
        if child == 0:
            os._exit(0 if client.w_echo(n=2) == {"n": 2} else 1)

        assert os.waitpid(child, 0)[1] == 0
        assert client.w_echo(n=3) == {"n": 3}
        thread.join(LIMIT)
