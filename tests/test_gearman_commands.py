"""Command queues: jobs whose data names a method, with a real job_server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from gearman_servers import Gearmand, Peer
from pools import LIMIT, until

from skunkqueue.errors import WrongCall
from skunkqueue.gearman import DataEncoder, GearmanCMD, GearmanCMDQueue, GearmanWorker


class Mixin:
    def mixed(self, gcmd: GearmanCMD, task: Any) -> str:
        return "never"


class Queue(GearmanCMDQueue, Mixin):
    secret = print
    seen: Any = None

    def reverse(self, gcmd: GearmanCMD, task: Any) -> str:
        message = task.get("message", None)
        if message is None:
            raise AttributeError("Missing 'message' key")
        found: str = message[::-1]
        return found

    def default(self, gcmd: GearmanCMD, task: Any) -> Any:
        return ["default", task]

    def stop(self, gcmd: GearmanCMD, task: Any) -> None:
        gcmd.stop()

    def _hidden(self, gcmd: GearmanCMD, task: Any) -> str:
        return "never"

    @property
    def shown(self) -> str:
        raise AssertionError("never called")

    class Inner:
        def __init__(self, *args: Any) -> None:
            raise AssertionError("never called")


class Child(Queue):
    def more(self, gcmd: GearmanCMD, task: Any) -> str:
        return "more"


class Upper(GearmanCMDQueue):
    def dispatch(self, task: Any) -> str | None:
        command = task.get("command", "default")
        return None if "ignore" in command else command.upper()

    def REVERSE(self, gcmd: GearmanCMD, task: Any) -> str:
        return "olleH"

    def DEFAULT(self, gcmd: GearmanCMD, task: Any) -> None:
        return None


class Running:
    """A GearmanCMD that runs on a thread; ``error`` is what came out of ``run``."""

    def __init__(self, gcmd: GearmanCMD, trigger: threading.Event | None = None) -> None:
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(gcmd, trigger), daemon=True)
        self._thread.start()

    def _run(self, gcmd: GearmanCMD, trigger: threading.Event | None) -> None:
        try:
            gcmd.run(trigger)
        except Exception as error:
            self.error = error

    def ends(self) -> Exception | None:
        self._thread.join(LIMIT)
        assert not self._thread.is_alive()
        return self.error


@contextmanager
def running(gcmd: GearmanCMD) -> Iterator[Running]:
    found = Running(gcmd)
    try:
        yield found
    finally:
        gcmd.stop()
        found.ends()


def ask(peer: Peer, queue: str = "queue", **task: Any) -> Any:
    return json.loads(peer.call(queue, json.dumps(task).encode()))


@pytest.fixture
def gcmd(job_server: Gearmand) -> GearmanCMD:
    found = GearmanCMD([job_server.server])
    found.register_task("queue", Queue())
    return found


def test_a_command_is_done_by_the_method_of_its_name(gcmd: GearmanCMD, gearman_peer: Peer) -> None:
    gcmd.register_task("child", Child())
    with running(gcmd):
        assert ask(gearman_peer, command="reverse", message="Hello") == "olleH"
        assert ask(gearman_peer, "child", command="reverse", message="Hello") == "olleH"
        assert ask(gearman_peer, "child", command="more") == "more"


@pytest.mark.parametrize(
    "command",
    ["_hidden", "__init__", "__class__", "dispatch", "mixed", "secret", "seen", "shown", "Inner", "default", "more", "",
     "réverse", "reverse ", 5, None, ["reverse"], {"reverse": 1}, True, "x" * 100_000],
)  # fmt: skip
def test_only_public_methods_of_the_users_class_are_commands(
    gcmd: GearmanCMD, gearman_peer: Peer, command: object
) -> None:
    with running(gcmd):
        assert ask(gearman_peer, command=command)[0] == "default"


def test_a_task_without_a_command_gets_the_default(gcmd: GearmanCMD, gearman_peer: Peer) -> None:
    with running(gcmd):
        assert ask(gearman_peer, message="Hello") == ["default", {"message": "Hello"}]


def test_the_default_is_an_error_unless_it_is_overridden(gcmd: GearmanCMD, gearman_peer: Peer) -> None:
    gcmd.register_task("queue", Upper.__base__())
    run = Running(gcmd)

    with pytest.raises(RuntimeError, match=r"^NotImplementedError: "):
        ask(gearman_peer, command="any")

    assert isinstance(run.ends(), NotImplementedError)


def test_an_exception_reaches_the_client_and_comes_out_of_run(gcmd: GearmanCMD, gearman_peer: Peer) -> None:
    run = Running(gcmd)
    with pytest.raises(RuntimeError, match=r"^AttributeError: Missing 'message' key$"):
        ask(gearman_peer, command="reverse")
    error = run.ends()
    assert isinstance(error, AttributeError)
    assert str(error) == "Missing 'message' key"
    gcmd.stop()

    with running(gcmd):
        assert ask(gearman_peer, command="reverse", message="ab") == "ba"


def test_with_a_handler_its_value_is_the_answer_and_the_work_goes_on(job_server: Gearmand, gearman_peer: Peer) -> None:
    gcmd = GearmanCMD([job_server.server], exception_handler=lambda error: f"handled {error}")
    gcmd.register_task("queue", Queue())
    with running(gcmd):
        assert ask(gearman_peer, command="reverse") == "handled Missing 'message' key"
        assert ask(gearman_peer, command="reverse", message="ab") == "ba"


@pytest.mark.parametrize("data", [b"{no JSON", b"\xff\xfe", b"[1, 2]", b'"reverse"', b"5", b"null", b""])
def test_data_that_is_no_task_fails_that_job_only(gcmd: GearmanCMD, gearman_peer: Peer, data: bytes) -> None:
    with running(gcmd):
        with pytest.raises(RuntimeError):
            gearman_peer.call("queue", data)
        assert ask(gearman_peer, command="reverse", message="ab") == "ba"


def test_a_command_stops_the_work_and_its_client_gets_none(gcmd: GearmanCMD, gearman_peer: Peer) -> None:
    run = Running(gcmd)

    assert ask(gearman_peer, command="stop") is None

    assert run.ends() is None


def test_a_trigger_stops_the_work(gcmd: GearmanCMD, gearman_peer: Peer) -> None:
    trigger = threading.Event()
    run = Running(gcmd, trigger)
    assert ask(gearman_peer, command="reverse", message="ab") == "ba"

    trigger.set()

    assert run.ends() is None
    Running(gcmd, trigger).ends()  # it is set already


def test_another_key_can_name_the_command(job_server: Gearmand, gearman_peer: Peer) -> None:
    gcmd = GearmanCMD([job_server.server], command="do")
    gcmd.register_task("queue", Queue())
    with running(gcmd):
        assert ask(gearman_peer, do="reverse", message="ab") == "ba"
        assert ask(gearman_peer, command="reverse", message="ab")[0] == "default"


def test_a_queue_can_dispatch_by_itself(gcmd: GearmanCMD, gearman_peer: Peer) -> None:
    gcmd.register_task("upper", Upper())
    with running(gcmd):
        assert ask(gearman_peer, "upper", command="reverse") == "olleH"
        assert ask(gearman_peer, "upper", command="ignore me") is None
        assert ask(gearman_peer, "upper") is None


def test_a_child_of_gearmancmd_can_dispatch_among_queues(job_server: Gearmand, gearman_peer: Peer) -> None:
    class Custom(GearmanCMD):
        def dispatch(self, queue: str, task: Any) -> str | None:
            return {"one": "reverse", "two": None}[queue]

    gcmd = Custom([job_server.server])
    gcmd.register_task("one", Queue())
    gcmd.register_task("two", Queue())
    with running(gcmd):
        assert ask(gearman_peer, "one", command="stop", message="ab") == "ba"
        assert ask(gearman_peer, "two", command="stop", message="ab") is None


def test_another_worker_brings_another_encoder(job_server: Gearmand, gearman_peer: Peer) -> None:
    class Lines(DataEncoder):
        @classmethod
        def encode(cls, value: Any) -> bytes:
            return f"<{value}>".encode()

        @classmethod
        def decode(cls, data: bytes) -> Any:
            return dict(pair.split("=") for pair in data.decode().split())

    class LinesWorker(GearmanWorker):
        data_encoder = Lines

    class Custom(GearmanCMD):
        worker = LinesWorker

    gcmd = Custom([job_server.server])
    gcmd.register_task("queue", Queue())
    with running(gcmd):
        assert gearman_peer.call("queue", b"command=reverse message=ab") == b"<ba>"


def test_queues_are_of_one_object_and_new_ones_take_effect_with_the_next_run(
    job_server: Gearmand, gcmd: GearmanCMD, gearman_peer: Peer
) -> None:
    GearmanCMD([job_server.server]).register_task("others", Queue())
    with running(gcmd):
        assert ask(gearman_peer, command="reverse", message="ab") == "ba"
        gcmd.register_task("late", Queue())
        gearman_peer.submit("late", b'{"command": "reverse", "message": "ab"}')
        assert ask_again(job_server)
        assert job_server.status("late")[2] == job_server.status("others")[2] == 0

    with running(gcmd):
        assert gearman_peer.ended().args[1] == b'"ba"'


def ask_again(job_server: Gearmand) -> bool:
    """Whether the worker still serves only what it did; asked of another connection."""
    peer = Peer(job_server)
    try:
        return bool(ask(peer, command="reverse", message="cd") == "dc")
    finally:
        peer.close()


def test_wrong_calls_are_refused(gcmd: GearmanCMD, gearman_peer: Peer) -> None:
    with pytest.raises(WrongCall, match="an instance of a GearmanCMDQueue subclass"):
        gcmd.register_task("queue", Queue)  # type: ignore[arg-type]
    with pytest.raises(WrongCall):
        gcmd.register_task("two words", Queue())
    with pytest.raises(WrongCall, match="poll_timeout"):
        GearmanCMD(["localhost"], poll_timeout=0)
    with pytest.raises(WrongCall):
        GearmanCMD([])
    with running(gcmd):
        until(lambda: ask(gearman_peer, command="reverse", message="ab") == "ba")
        with pytest.raises(WrongCall, match="runs already"):
            gcmd.run()
