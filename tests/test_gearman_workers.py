"""Workers of Gearman's jobs, in this process and in processes of their own, with a real job_server."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from gearman_jobs import Loud, Plain, Second
from gearman_servers import Gearmand, Peer, Running, as_json, peers, started
from pools import LIMIT, until

from skunkqueue.errors import WrongCall
from skunkqueue.gearman import BaseWorker, GearmanJob, GearmanWorker, JsonWorker, WorkRunner
from skunkqueue.gearman.connection import JobServer, open_socket
from skunkqueue.gearman.polled import PolledConnections
from skunkqueue.gearman.protocol import PacketType
from skunkqueue.gearman.runner import grouped
from skunkqueue.gearman.worker_connection import WorkerConnection


@contextmanager
def working(worker: GearmanWorker) -> Iterator[threading.Thread]:
    """A worker on a thread of this process."""
    thread = threading.Thread(target=worker.work, daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        worker.shutdown()
        thread.join(LIMIT)
        assert not thread.is_alive()


# -- GearmanWorker, in this process ----------------------------------------------------------------------------------


def test_a_worker_answers_fails_and_goes_on(job_server: Gearmand, gearman_peer: Peer) -> None:
    def boom(worker: GearmanWorker, job: GearmanJob) -> None:
        raise ValueError(f"no {job.data!r}")

    worker = JsonWorker([job_server.server])
    worker.register_task("double", lambda worker, job: job.data * 2)
    worker.register_task("boom", boom)
    worker.register_task("strange", lambda worker, job: object())

    with working(worker):
        assert gearman_peer.call("double", b"21") == b"42"
        with pytest.raises(RuntimeError, match=r"^ValueError: no 'x'$"):
            gearman_peer.call("boom", b'"x"')
        with pytest.raises(RuntimeError, match=r"^TypeError: .*not JSON serializable"):
            gearman_peer.call("strange", b"")
        with pytest.raises(RuntimeError, match=r"^JSONDecodeError: "):
            gearman_peer.call("double", b"{no JSON")
        assert gearman_peer.call("double", b'"ab"') == b'"abab"'


def test_a_job_tells_its_status_parts_and_warnings(job_server: Gearmand, gearman_peer: Peer) -> None:
    def tell(worker: GearmanWorker, job: GearmanJob) -> str:
        worker.send_job_status(job, 1, 3)
        worker.send_job_data(job, "part")
        worker.send_job_warning(job, "mind")
        return f"{job.task} {job.unique} {job.data.decode()}"

    worker = GearmanWorker([job_server.server])
    worker.register_task("tell", tell)

    with working(worker):
        handle = gearman_peer.submit("tell", b"it", unique="key")
        came = [gearman_peer.next() for _ in range(4)]

    assert [(packet.type, packet.args) for packet in came] == [
        (PacketType.WORK_STATUS, (handle, b"1", b"3")),
        (PacketType.WORK_DATA, (handle, b"part")),
        (PacketType.WORK_WARNING, (handle, b"mind")),
        (PacketType.WORK_COMPLETE, (handle, b"tell key it")),
    ]


def test_many_large_parts_are_sent_as_they_are_made(job_server: Gearmand, gearman_peer: Peer) -> None:
    begun: list[str] = []

    def stream(worker: GearmanWorker, job: GearmanJob) -> bytes:
        begun.append(job.handle)
        for _ in range(100):
            worker.send_job_data(job, bytes(1 << 20))
        return bytes(10 << 20)

    worker = GearmanWorker([job_server.server])
    worker.register_task("stream", stream)

    with working(worker):
        gearman_peer.submit("stream", b"")
        for _ in range(100):
            assert len(gearman_peer.next().data) == 1 << 20
        assert len(gearman_peer.next().data) == 10 << 20

    assert len(begun) == 1


def test_a_worker_serves_several_servers_one_of_which_is_away(job_server: Gearmand) -> None:
    with started() as other, started() as absent:
        absent.kill()
        worker = GearmanWorker([absent.server, job_server.server, other.server])
        worker.register_task("echo", lambda worker, job: job.data)

        with working(worker), peers(job_server) as (one,), peers(other) as (two,):
            for number in range(20):
                data = str(number).encode()
                assert one.call("echo", data) == two.call("echo", data) == data
            absent.start()
            with peers(absent) as (three,):
                assert three.call("echo", b"late") == b"late"


def test_a_server_that_is_slow_holds_up_no_other(job_server: Gearmand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skunkqueue.gearman.polled.UNANSWERED", 1000.0)
    monkeypatch.setattr("skunkqueue.gearman.polled.GRAB_ANYWAY", 0.0)  # it is asked again and again
    with started() as slow:
        worker = GearmanWorker([slow.server, job_server.server])
        worker.register_task("echo", lambda worker, job: job.data)

        with working(worker), peers(job_server) as (one,), peers(slow) as (two,):
            assert two.call("echo", b"1") == b"1"
            slow.process.send_signal(signal.SIGSTOP)  # type: ignore[union-attr]
            for number in range(3):
                time.sleep(0.6)  # it has looked for what is late, and asked both
                assert one.call("echo", b"%d" % number) == b"%d" % number

            slow.process.send_signal(signal.SIGCONT)  # type: ignore[union-attr]
            assert two.call("echo", b"late") == b"late"


def test_a_worker_that_ends_while_it_connects_leaves_nothing_open(
    job_server: Gearmand, monkeypatch: pytest.MonkeyPatch
) -> None:
    connecting, go_on = threading.Event(), threading.Event()
    found: list[socket.socket] = []

    def slowly(server: JobServer) -> socket.socket:
        found.append(open_socket(server))
        return found[-1]

    def hand_over(self: PolledConnections, connection: WorkerConnection, link: socket.socket) -> None:
        connecting.set()
        go_on.wait(LIMIT)
        handed(self, connection, link)

    handed = PolledConnections._found
    monkeypatch.setattr("skunkqueue.gearman.dialer.open_socket", slowly)
    monkeypatch.setattr(PolledConnections, "_found", hand_over)
    worker = GearmanWorker([job_server.server])

    with working(worker):
        assert connecting.wait(LIMIT)
    go_on.set()

    until(lambda: found[0].fileno() < 0)


def test_a_server_that_is_gone_again_at_once_is_dialed_anew(
    job_server: Gearmand, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = GearmanWorker([job_server.server])
    worker.register_task("echo", lambda worker, job: job.data)
    adopt, adopted = WorkerConnection.adopt, []

    def adopt_and_lose(connection: WorkerConnection, found: socket.socket) -> None:
        adopt(connection, found)
        adopted.append(found)
        if len(adopted) < 3:
            connection.close()

    monkeypatch.setattr(WorkerConnection, "adopt", adopt_and_lose)

    with working(worker):
        until(lambda: len(adopted) == 3 and job_server.status("echo")[2] == 1)


def test_a_server_that_no_thread_could_dial_is_dialed_later(
    job_server: Gearmand, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start, tried = threading.Thread.start, []

    def start_or_not(thread: threading.Thread) -> None:
        if thread.name == "skunkqueue-dialer":
            tried.append(thread)
            if len(tried) < 3:
                raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_not)
    worker = GearmanWorker([job_server.server])
    worker.register_task("echo", lambda worker, job: job.data)

    with working(worker):
        until(lambda: job_server.status("echo")[2] == 1)

    assert "can't start new thread" in caplog.text


def test_a_worker_announces_itself_again_to_a_server_that_was_restarted(job_server: Gearmand) -> None:
    worker = GearmanWorker([job_server.server])
    worker.set_client_id("it@here")
    worker.register_task("echo", lambda worker, job: job.data)

    with working(worker):
        until(lambda: job_server.status("echo")[2] == 1)
        job_server.kill()
        job_server.start()
        until(lambda: job_server.status("echo")[2] == 1)

        assert any("it@here" in line[0] for line in job_server.admin("workers"))
        with peers(job_server) as (peer,):
            assert peer.call("echo", b"again") == b"again"


def test_a_task_registered_while_working_is_taken_up(job_server: Gearmand, gearman_peer: Peer) -> None:
    worker = GearmanWorker([job_server.server])
    worker.register_task("one", lambda worker, job: b"1")
    with working(worker):
        assert gearman_peer.call("one", b"") == b"1"
        worker.register_task("two", lambda worker, job: b"2")

        assert gearman_peer.call("two", b"") == b"2"


@pytest.mark.slow
def test_a_job_due_later_is_done_though_the_server_wakes_nobody(job_server: Gearmand, gearman_peer: Peer) -> None:
    done: list[float] = []
    worker = GearmanWorker([job_server.server])
    worker.register_task("late", lambda worker, job: done.append(time.time()) or b"")
    with working(worker):
        due = int(time.time()) + 2
        gearman_peer.send(PacketType.SUBMIT_JOB_EPOCH, "late", "", due, b"")

        until(lambda: done)

    assert done[0] >= due - 0.1


class Ahead(JsonWorker):
    ahead = 16


def test_a_worker_that_takes_several_jobs_at_a_time_answers_each(job_server: Gearmand, gearman_peer: Peer) -> None:
    done: list[int] = []
    worker = Ahead([job_server.server])
    handles = [gearman_peer.submit("note", str(number).encode()) for number in range(100)]
    worker.register_task("note", lambda worker, job: done.append(job.data) or job.data)

    with working(worker):
        ended = [gearman_peer.ended().args for _ in handles]

    assert ended == [(handle, str(number).encode()) for number, handle in enumerate(handles)]
    assert done == list(range(100))


def test_a_result_does_not_wait_for_a_long_job_behind_it(job_server: Gearmand, gearman_peer: Peer) -> None:
    done: list[int] = []
    began, go_on = threading.Event(), threading.Event()

    def long(worker: GearmanWorker, job: GearmanJob) -> int:
        began.set()
        go_on.wait(LIMIT)
        return int(job.data)

    worker = Ahead([job_server.server])
    for number in range(10):
        gearman_peer.submit("quick", str(number).encode())
    gearman_peer.submit("long", b"10")
    worker.register_task("quick", lambda worker, job: done.append(job.data) or job.data)
    worker.register_task("long", long)

    with working(worker):
        assert began.wait(LIMIT)
        before = [json.loads(gearman_peer.ended().args[1]) for _ in list(done)]
        go_on.set()
        rest = [json.loads(gearman_peer.ended().args[1]) for _ in range(11 - len(before))]

    assert sorted(before + rest) == list(range(11))


def test_a_worker_that_stops_leaves_what_it_took_ahead_to_others(job_server: Gearmand, gearman_peer: Peer) -> None:
    done: list[int] = []
    first, second = Ahead([job_server.server]), Ahead([job_server.server])

    def note(worker: GearmanWorker, job: GearmanJob) -> int:
        done.append(job.data)
        if worker is first and job.data == 20:
            worker.shutdown()
        return int(job.data)

    for number in range(50):
        gearman_peer.submit("note", str(number).encode())
    for each in (first, second):
        each.register_task("note", note)

    first.work()
    with working(second):
        ended = sorted(int(gearman_peer.ended().args[1]) for _ in range(50))

    assert ended == list(range(50))
    assert sorted(done) == list(range(50))


@pytest.mark.parametrize("hosts", [[], "a:b:c", ["host:port"], ["host:0"], [5], [""]])
def test_what_is_no_server_is_refused(hosts: object) -> None:
    with pytest.raises(WrongCall):
        GearmanWorker(hosts)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "with space", "new\nline", 5, "x" * 513])
def test_what_is_no_name_of_a_function_is_refused(name: str) -> None:
    with pytest.raises(WrongCall):
        GearmanWorker(["localhost"]).register_task(name, lambda worker, job: None)


# -- BaseWorker ------------------------------------------------------------------------------------------------------


def test_the_help_tells_of_every_task(job_server: Gearmand, gearman_peer: Peer) -> None:
    worker = Plain(hosts=[job_server.server])
    with working(worker.gearman_worker):
        told = json.loads(gearman_peer.call("plain_help", b""))

    assert set(told) == {f"plain_{name[5:]}" for name in dir(Plain) if name.startswith("task_")}
    assert told["plain_echo"]["description"] == "Echoes the text"
    assert told["plain_add"]["description"] == "Adds A and B together"
    assert told["plain_raise"] == {"description": "<No description>", "input": {}}
    assert told["plain_echo"]["input"] == {
        "text": {"default": None, "required": True, "annotation": "str"},
        "double": {"default": False, "required": False, "annotation": "bool"},
    }
    assert told["plain_many"]["input"] == {
        "a": {"default": None, "required": True},
        "must": {"default": None, "required": True, "kind": "keyword only"},
        "may": {"default": "(1, 2)", "required": False, "kind": "keyword only"},
        "rest": {"default": None, "required": False, "kind": "any others"},
    }


def test_tasks_take_arguments_by_keyword_only(job_server: Gearmand, gearman_peer: Peer) -> None:
    worker = Plain(hosts=[job_server.server])
    with working(worker.gearman_worker):
        assert gearman_peer.call("plain_echo", as_json(text="a", double=True)) == b'"aa"'
        assert json.loads(gearman_peer.call("plain_many", as_json(a=1, must=2, more=3))) == [1, 2, [1, 2], {"more": 3}]
        with pytest.raises(RuntimeError, match=r"TypeError: plain_echo takes arguments by keyword, as a JSON object"):
            gearman_peer.call("plain_echo", b"[1]")
        with pytest.raises(RuntimeError, match=r"TypeError: .*unexpected keyword argument 'no'"):
            gearman_peer.call("plain_echo", as_json(no=1))


def test_a_worker_is_listed_by_name_process_and_host(job_server: Gearmand) -> None:
    worker = Plain(hosts=[job_server.server])
    with working(worker.gearman_worker):
        until(lambda: any(f"plain-{os.getpid()}@" in line[0] for line in job_server.admin("workers")))


def test_a_worker_adds_its_tasks_to_one_that_is_given(job_server: Gearmand, gearman_peer: Peer) -> None:
    shared = JsonWorker([job_server.server])
    Plain(gearman_worker=shared)
    Second(gearman_worker=shared)
    with working(shared):
        assert json.loads(gearman_peer.call("second_pid", b"")) == os.getpid()
        assert gearman_peer.call("plain_add", as_json(a=1, b=2)) == b"3"


def test_a_worker_without_a_name_is_refused() -> None:
    class Nameless(BaseWorker):
        pass

    with pytest.raises(WrongCall, match=r"Nameless needs a name"):
        Nameless()


def test_a_started_worker_stops_gently_on_sigterm(tmp_path: Path, job_server: Gearmand, gearman_peer: Peer) -> None:
    with Running(tmp_path, "start", job_server.server) as running:
        gearman_peer.submit("plain_sleep", as_json(seconds=1))
        until(lambda: running.marks("mark-began"))

        running.process.send_signal(signal.SIGTERM)

        assert gearman_peer.ended().args[1] == b'"slept"'
        assert running.process.wait(LIMIT) == 0
        assert "came back" in running.log()


@pytest.mark.slow
def test_a_started_worker_that_is_interrupted_leaves_its_job_to_another(
    tmp_path: Path,
    job_server: Gearmand,
    gearman_peer: Peer,
) -> None:
    with Running(tmp_path, "start", job_server.server) as first:
        gearman_peer.submit("plain_sleep", as_json(seconds=2))
        until(lambda: first.marks("mark-began"))
        first.process.send_signal(signal.SIGINT)
        assert first.process.wait(LIMIT) != 0
    assert not first.marks("mark-ended")

    with Running(tmp_path, "start", job_server.server):
        assert gearman_peer.ended().args[1] == b'"slept"'


# -- WorkRunner ------------------------------------------------------------------------------------------------------


def test_a_runner_answers_as_a_worker_does(gearman_run: Running, gearman_peer: Peer) -> None:
    assert gearman_peer.call("plain_echo", as_json(text="hi", double=True)) == b'"hihi"'
    assert json.loads(gearman_peer.call("plain_help", b""))["plain_add"]["description"] == "Adds A and B together"
    with pytest.raises(RuntimeError, match=r"^ValueError: no good$"):
        gearman_peer.call("plain_raise", b"")
    with pytest.raises(RuntimeError, match=r"^TypeError: .*not JSON serializable"):
        gearman_peer.call("plain_strange", b"")
    pid, set_up = json.loads(gearman_peer.call("plain_pid", b""))
    assert pid == set_up != gearman_run.process.pid


def test_a_runner_tells_the_status_of_its_tasks(gearman_run: Running, gearman_peer: Peer) -> None:
    gearman_peer.submit("plain_sleep", as_json(seconds=1))

    told = gearman_peer.next()

    assert told.type is PacketType.WORK_STATUS
    assert told.args[2] == b"10"
    assert gearman_peer.ended().args[1] == b'"slept"'


def test_a_runner_sends_parts_of_results_ahead_of_their_end(gearman_run: Running, gearman_peer: Peer) -> None:
    sizes = [3, 0, 100_000, 1, 2_000_000, 32 << 10, *range(200)]
    for _ in range(3):
        gearman_peer.submit("plain_parts", as_json(sizes=sizes))

        came = [gearman_peer.next() for _ in range(len(sizes) + 1)]

        assert [(packet.type, len(json.loads(packet.args[1]))) for packet in came[:-1]] == [
            (PacketType.WORK_DATA, size) for size in sizes
        ]
        assert came[-1].type is PacketType.WORK_COMPLETE


def test_workers_are_grouped_by_their_work_class(tmp_path: Path, job_server: Gearmand, gearman_peer: Peer) -> None:
    with Running(tmp_path, "run", job_server.server, classes=["Plain", "Loud", "Second"]) as running:
        plain = json.loads(gearman_peer.call("plain_pid", b""))[0]
        second = json.loads(gearman_peer.call("second_pid", b""))
        loud = gearman_peer.call("loud_say", b"hey")

        assert plain == second
        assert loud.startswith(b"HEY IN ") and int(loud.split()[-1]) not in (plain, running.process.pid)
        assert [len(group) for group in grouped([Plain, Loud, Second])] == [2, 1]
        assert running.ends() == 0
        assert "came back" in running.log()


def test_a_process_that_dies_is_replaced_and_its_job_fails_after_the_third(
    gearman_run: Running, gearman_peer: Peer
) -> None:
    before = json.loads(gearman_peer.call("plain_pid", b""))

    with pytest.raises(RuntimeError, match=r"poison: 3 workers died of it"):
        gearman_peer.call("plain_die", b"")

    after = json.loads(gearman_peer.call("plain_pid", b""))
    assert after != before
    assert gearman_run.log().count("died (SIGKILL)") >= 3


def test_a_process_whose_set_up_fails_is_tried_again(tmp_path: Path, job_server: Gearmand, gearman_peer: Peer) -> None:
    (tmp_path / "fail-set-up").touch()
    with Running(tmp_path, "run", job_server.server) as running:
        assert gearman_peer.call("plain_add", as_json(a=1, b=1)) == b"2"
        assert "RuntimeError: not this time" in running.log()


def test_without_keep_alive_a_runner_ends_with_its_processes(
    tmp_path: Path,
    job_server: Gearmand,
    gearman_peer: Peer,
) -> None:
    with Running(tmp_path, "run", job_server.server, keepAlive=False) as running:
        gearman_peer.submit("plain_exit", b"", background=True)

        assert running.process.wait(LIMIT) == 0
        assert "came back" in running.log()
        until(lambda: job_server.status("plain_exit")[0] == 1, message="the job was not given back")


def test_a_task_that_takes_too_long_is_ended(tmp_path: Path, job_server: Gearmand, gearman_peer: Peer) -> None:
    with Running(tmp_path, "run", job_server.server, timeout=0.5) as running:
        with pytest.raises(RuntimeError, match=r"TimeoutError: did not end within 0\.5 s"):
            gearman_peer.call("plain_sleep", as_json(seconds=60))

        assert gearman_peer.call("plain_add", as_json(a=1, b=1)) == b"2"
        assert not running.marks("mark-ended")


def test_a_gentle_stop_lets_the_task_finish(gearman_run: Running, gearman_peer: Peer) -> None:
    gearman_peer.submit("plain_sleep", as_json(seconds=1))
    until(lambda: gearman_run.marks("mark-began"))

    gearman_run.process.send_signal(signal.SIGTERM)

    assert gearman_peer.ended().args[1] == b'"slept"'
    assert gearman_run.process.wait(LIMIT) == 0


def test_a_rough_stop_interrupts_the_task_and_another_worker_gets_the_job(
    tmp_path: Path,
    gearman_run: Running,
    job_server: Gearmand,
    gearman_peer: Peer,
) -> None:
    gearman_peer.submit("plain_sleep", as_json(seconds=3))
    until(lambda: gearman_run.marks("mark-began"))

    assert gearman_run.ends(signal.SIGINT) == 0

    assert not gearman_run.marks("mark-ended")
    with Running(tmp_path, "run", job_server.server):
        assert gearman_peer.ended().args[1] == b'"slept"'
    assert len(gearman_run.marks("mark-began")) == 2


def test_jobs_that_wait_behind_a_stop_are_given_to_others(
    tmp_path: Path, job_server: Gearmand, gearman_peer: Peer
) -> None:
    count = 30
    with Running(tmp_path, "run", job_server.server) as first:
        until(lambda: job_server.status("plain_sleep")[2] == 1)
        for number in range(count):
            gearman_peer.submit("plain_sleep", as_json(seconds=0.02, mark=f"n{number:02d}"), background=True)
        until(lambda: len(first.marks("n*-ended")) >= 3)
        assert first.ends() == 0

    with Running(tmp_path, "run", job_server.server):
        until(lambda: job_server.status("plain_sleep")[0] == 0)

    assert [len(first.marks(f"n{number:02d}-ended")) for number in range(count)] == [1] * count


def test_what_a_runner_cannot_run_is_refused() -> None:
    class Twin(BaseWorker):
        name = "plain"

        def task_echo(self) -> None:
            """The same name as another's."""

    with pytest.raises(WrongCall, match=r"BaseWorker subclasses"):
        WorkRunner([Plain()])  # type: ignore[list-item]
    with pytest.raises(WrongCall, match=r"both export plain_echo"):
        WorkRunner([Plain, Twin])
    with pytest.raises(WrongCall, match=r"got none"):
        WorkRunner([]).start()
    with pytest.raises(WrongCall, match=r"threads"):
        WorkRunner([Plain]).start(threads=0)
