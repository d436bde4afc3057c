"""GearmanClient and AdminClient with a real gearmand."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from gearman_scripted import grab, worker
from gearman_servers import Gearmand, Peer, gearmand  # noqa: F401 - a fixture
from pools import LIMIT, until

from skunkqueue.errors import WrongCall
from skunkqueue.gearman import (
    AdminClient,
    GearmanClient,
    JobUnfinished,
    JSONDataEncoder,
    ServerRefused,
)
from skunkqueue.gearman.protocol import PacketType
from skunkqueue.gearman.text import FunctionStatus

# -- requests, as python-gearman has them ----------------------------------------------------------------------------


class JSONClient(GearmanClient):
    data_encoder = JSONDataEncoder


def test_requests_hold_what_became_of_jobs(gearmand: Gearmand) -> None:  # noqa: F811
    with worker(gearmand, "f") as peer, JSONClient([gearmand.server]) as client:
        jobs = [{"task": "f", "data": {"n": n}, "unique": f"u{n}", "priority": None} for n in range(3)]
        requests = client.submit_multiple_jobs(jobs, wait_until_complete=False)
        assert {request.state for request in requests} == {"CREATED"}
        for _ in range(3):
            job = grab(peer)
            if job.unique == b"u1":
                peer.send(PacketType.WORK_EXCEPTION, job.handle, "boom")
            else:
                peer.send(PacketType.WORK_DATA, job.handle, "7")
                peer.send(PacketType.WORK_COMPLETE, job.handle, job.data)
        client.wait_until_jobs_completed(requests, poll_timeout=LIMIT)

    assert [request.state for request in requests] == ["COMPLETE", "FAILED", "COMPLETE"]
    assert [request.result for request in requests] == [{"n": 0}, None, {"n": 2}]
    assert requests[1].exception == "boom"
    assert requests[0].data_updates == [7]
    assert not any(request.timed_out for request in requests)


def test_a_request_times_out_and_is_followed(gearmand: Gearmand) -> None:  # noqa: F811
    with GearmanClient([gearmand.server]) as client, worker(gearmand, "f") as peer:
        request = client.submit_job("f", b"data", poll_timeout=0.05)
        assert request.timed_out
        assert request.state == "CREATED"
        assert client.get_job_status(request).status["known"] is True

        job = grab(peer)
        peer.send(PacketType.WORK_COMPLETE, job.handle, b"\0bytes")
        client.wait_until_jobs_completed([request], poll_timeout=LIMIT)
        assert request.complete
        assert request.result == b"\0bytes"


def test_a_background_request_is_complete_when_accepted(gearmand: Gearmand) -> None:  # noqa: F811
    with GearmanClient([gearmand.server]) as client:
        request = client.submit_job("f", "text", background=True, priority="HIGH")

        assert request.complete
        assert request.state == "CREATED"
        assert gearmand.status("f") == (1, 0, 0)


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ({"data": b""}, "a job is a dict"),
        ({"task": "f", "date": b""}, "a job is a dict"),
        ({"task": "f", "priority": 5}, "PRIORITY_NONE"),
        ({"task": "f", "data": {}}, "the data of f cannot be sent"),
        ({"task": "a b"}, "without spaces"),
        ({"task": "f", "unique": "u" * 64}, "1 to 63 bytes"),
    ],
)
def test_a_wrong_job_gets_a_sentence(job: dict[str, Any], words: str) -> None:
    with pytest.raises(WrongCall, match=words):
        GearmanClient(["127.0.0.1:1"]).submit_multiple_jobs([job])


# -- admin -----------------------------------------------------------------------------------------------------------


def test_the_admin_client_asks_and_tells(gearmand: Gearmand) -> None:  # noqa: F811
    with AdminClient(gearmand.server) as admin, worker(gearmand, "f", "g") as peer:
        peer.send(PacketType.SET_CLIENT_ID, "me-1@here")
        with closing(GearmanClient(gearmand.server)) as client:
            request = client.submit_job("f", b"", unique="k", background=True)
            client.submit_job("f", b"", background=True, priority="HIGH")

        assert admin.version().startswith("1.")
        assert admin.ping() >= 0
        assert gearmand.process is not None
        assert admin.getpid() == gearmand.process.pid
        until(lambda: FunctionStatus("f", 2, 0, 1) in admin.status())  # the worker's words may come after the jobs
        assert next(row for row in admin.priorities() if row.function == "f")[1:4] == (1, 1, 0)
        until(lambda: any(row.client_id == "me-1@here" and set(row.functions) == {"f", "g"} for row in admin.workers()))
        assert "k" in admin.uniques()
        assert request.handle in [row.handle for row in admin.jobs()]
        admin.cancel(request.handle)
        with pytest.raises(ServerRefused, match="UNKNOWN_JOB"):
            admin.cancel("H:none:1")
        admin.maxqueue("f", 5)
        admin.maxqueue("f", 1, 2, 3)
        admin.maxqueue("f")
        admin.create_function("longer")
        assert FunctionStatus("longer", 0, 0, 0) in admin.status()
        admin.drop_function("longer")
        assert "longer" not in [row.function for row in admin.status()]


def test_the_admin_client_connects_again(gearmand: Gearmand) -> None:  # noqa: F811
    with AdminClient(gearmand.server) as admin:
        assert admin.version()
        gearmand.kill()
        gearmand.start()
        assert admin.version()

        with pytest.raises(ServerRefused, match="UNKNOWN_COMMAND"):
            admin.shutdown()  # gearmand 1.1.20 takes only signals


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda admin: admin.maxqueue("f", 1, 2), "one size, or three"),
        (lambda admin: admin.cancel("H:1\nshutdown"), "one word without spaces"),
        (lambda admin: admin.create_function(""), "one word without spaces"),
    ],
)
def test_a_wrong_admin_call_gets_a_sentence(call: Callable[[AdminClient], Any], words: str) -> None:
    with pytest.raises(WrongCall, match=words):
        call(AdminClient("127.0.0.1:1"))


def test_an_admin_client_is_for_one_server() -> None:
    with pytest.raises(WrongCall, match="for one server; got 2"):
        AdminClient("a:1,b:2")


def test_a_server_that_does_not_answer_ends_the_wait() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        admin = AdminClient(deaf.getsockname(), timeout=0.1)

        with pytest.raises(JobUnfinished, match=r"did not answer within 0\.1 s"):
            admin.version()
