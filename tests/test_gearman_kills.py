"""Gearman workers, servers and clients killed at the wrong moment: jobs are done, late results refused."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from gearman_servers import Gearmand, Peer, Running, as_json, peers, started
from pools import LIMIT, until

from skunkqueue.clock import ticks
from skunkqueue.codec import decode_call, encode_value
from skunkqueue.envelope import Asked, Claim, Exchange, Outcome, Seal, Want, open_body
from skunkqueue.gearman import GearmanWorker
from skunkqueue.gearman.asking import SLOW
from skunkqueue.gearman.connection import JobServer, open_socket
from skunkqueue.gearman.polled import PolledConnections
from skunkqueue.gearman.protocol import PacketType
from skunkqueue.gearman.runner import ROUTE, packer, value_of
from skunkqueue.gearman.source import GearmanSource
from skunkqueue.ids import new_token
from skunkqueue.persistence import Channel, WorkKey

NAMES = ["job"]


@contextmanager
def source_at(*servers: str) -> Iterator[GearmanSource]:
    source = GearmanSource(list(servers), {ROUTE: NAMES}, packer(NAMES, Seal()), value_of)
    try:
        yield source
    finally:
        source.close()


def want(limit: int = 1) -> Want:
    return Want("gearman", ("@it", ROUTE + "^high", ROUTE, ROUTE + "^low"), "it", new_token(), limit)


def claim(source: GearmanSource, limit: int = 1) -> list[Claim]:
    """Claims, waiting for them as a pool does."""
    found: list[Claim] = []

    def look() -> list[Claim]:
        result = source.exchange([], [want(limit - len(found))], now=ticks(), until=ticks() + 15)
        found.extend(result.claims)
        return found if len(found) >= limit else []

    return until(look)


def commit(source: GearmanSource, *pairs: tuple[Claim, Outcome]) -> Exchange:
    return source.exchange(pairs, [], now=ticks(), until=ticks() + 15)


def data_of(claim: Claim) -> bytes:
    """What the client sent."""
    args, _ = decode_call(open_body(claim.envelope.body).call)
    found: bytes = args[2]
    return found


def done(value: bytes = b"done") -> Outcome:
    return Outcome.complete(encode_value(value))


# -- the source itself -----------------------------------------------------------------------------------------------


def test_a_result_of_a_job_that_was_given_to_another_is_refused(job_server: Gearmand, gearman_peer: Peer) -> None:
    with source_at(job_server.server) as source:
        gearman_peer.submit("job", b"1")
        gearman_peer.submit("job", b"2")
        first, second = claim(source, 2)

        with peers(job_server) as (other,):
            # As if this connection had been taken for dead: the same job ends through another worker.
            other.send(PacketType.CAN_DO, "job")
            other.send(PacketType.WORK_COMPLETE, first.id.partition("@")[0], b"stolen")
            assert other.next().args[0] == b"JOB_NOT_FOUND"
        result = commit(source, (first, done()), (second, done()), (first._replace(token="another"), done()))

        assert result.taken == {first.id, second.id}
        # Ended already: the server knows it no more.
        source.servers.held.by_id[first.id] = held = source.servers.held.by_id.get(first.id) or _held_again(
            source, first
        )
        assert held.is_ours
        assert commit(source, (first, done())).taken == set()


def _held_again(source: GearmanSource, claim: Claim):  # type: ignore[no-untyped-def]
    """The job as it was held before it ended."""
    from skunkqueue.gearman.held import HeldJob
    from skunkqueue.gearman.worker_connection import Assigned

    connection = next(iter(source.servers.connections))
    handle = claim.id.partition("@")[0].encode()
    job = Assigned(handle, b"job", b"", b"")
    return HeldJob(claim.id, job, connection, connection.generation, ROUTE, claim.envelope.body, claim.token)


def test_of_several_outcomes_only_the_refused_one_is_not_taken(job_server: Gearmand, gearman_peer: Peer) -> None:
    with source_at(job_server.server) as source:
        for number in range(5):
            gearman_peer.submit("job", str(number).encode())
        claims = claim(source, 5)
        commit(source, (claims[2], done()))
        source.servers.held.by_id[claims[2].id] = _held_again(source, claims[2])

        result = commit(source, *[(each, done()) for each in claims])

        assert result.taken == {each.id for each in claims} - {claims[2].id}


def test_a_job_given_back_waits_here_with_its_notes(job_server: Gearmand, gearman_peer: Peer) -> None:
    with source_at(job_server.server) as source:
        gearman_peer.submit("job", b"x")
        (first,) = claim(source)

        later = ticks() + 0.3
        assert commit(source, (first, Outcome.again(due=later, notes=b"seen"))).taken == {first.id}
        result = source.exchange([], [want()], now=ticks(), until=ticks() + 15)
        assert result.claims == [] and result.next_ripe is not None and result.next_ripe <= later
        (again,) = claim(source)

        assert ticks() >= later
        assert (again.id, again.notes) == (first.id, b"seen")
        assert source.extend([first, again], until=0.0) == {first.id}
        assert commit(source, (first, done())).taken == set()
        assert commit(source, (again, done(b"end"))).taken == {again.id}
        assert gearman_peer.ended().args[1] == b"end"


@pytest.mark.slow
def test_jobs_that_nobody_starts_go_back_to_the_server(job_server: Gearmand, gearman_peer: Peer) -> None:
    with source_at(job_server.server) as source, source_at(job_server.server) as other:
        gearman_peer.submit("job", b"x")
        (first,) = claim(source)
        commit(source, (first, Outcome.untouched()))

        def given() -> list[Claim]:
            source.beat("it", "", until=0.0)
            return other.exchange([], [want()], now=ticks(), until=ticks() + 15).claims

        (second,) = until(given)

        assert data_of(second) == b"x"
        assert commit(source, (first, done())).taken == set()
        assert commit(other, (second, done())).taken == {second.id}


def test_a_lost_connection_takes_its_jobs_away_and_is_made_anew(job_server: Gearmand, gearman_peer: Peer) -> None:
    with source_at(job_server.server) as source:
        gearman_peer.submit("job", b"x")
        (first,) = claim(source)
        assert source.extend([first], until=0.0) == {first.id}

        source.servers.connections[0]._socket.shutdown(2)
        (again,) = claim(source)

        assert source.extend([first, again], until=0.0) == {again.id}
        assert data_of(again) == b"x"
        assert commit(source, (first, done()), (again, done())).taken == {again.id}


def test_jobs_of_all_servers_are_claimed(job_server: Gearmand) -> None:
    with started() as other, source_at(job_server.server, other.server) as source:
        with peers(job_server) as (one,), peers(other) as (two,):
            for number in range(5):
                one.submit("job", b"a%d" % number)
                two.submit("job", b"b%d" % number)
            claims = claim(source, 10)
            assert len(commit(source, *[(each, done()) for each in claims]).taken) == 10

        assert sorted(map(data_of, claims)) == sorted([b"%s%d" % (s, n) for s in (b"a", b"b") for n in range(5)])


def test_a_server_that_is_slow_holds_up_no_other(job_server: Gearmand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skunkqueue.gearman.servers.UNANSWERED", 1000.0)
    with (
        started() as slow,
        source_at(slow.server, job_server.server) as source,
        peers(job_server) as (one,),
        peers(slow) as (two,),
    ):
        one.submit("job", b"1")
        two.submit("job", b"2")
        assert len(commit(source, *[(each, done()) for each in claim(source, 2)]).taken) == 2
        assert one.ended().args[1] == two.ended().args[1] == b"done"
        slow.process.send_signal(signal.SIGSTOP)  # type: ignore[union-attr]
        for connection in source.servers.connections:
            connection.is_hot = True

        one.submit("job", b"3")
        assert [data_of(each) for each in claim(source)] == [b"3"]

        slow.process.send_signal(signal.SIGCONT)  # type: ignore[union-attr]
        two.submit("job", b"4")
        assert [data_of(each) for each in claim(source)] == [b"4"]


# -- whole programs --------------------------------------------------------------------------------------------------


def test_a_killed_runner_leaves_its_jobs_to_others(
    tmp_path: Path, gearman_run: Running, job_server: Gearmand, gearman_peer: Peer
) -> None:
    gearman_peer.submit("plain_sleep", as_json(seconds=2))
    gearman_peer.submit("plain_add", as_json(a=1, b=2), background=True)
    until(lambda: gearman_run.marks("mark-began"))

    gearman_run.ends(signal.SIGKILL)

    with Running(tmp_path, "run", job_server.server):
        assert gearman_peer.ended().args[1] == b'"slept"'
        until(lambda: job_server.status("plain_add")[0] == 0)
    assert not gearman_run.marks("fail")


def test_a_restarted_server_gets_a_runner_back_and_no_late_result(gearman_run: Running, job_server: Gearmand) -> None:
    with peers(job_server) as (before,):
        before.submit("plain_sleep", as_json(seconds=2))
        until(lambda: gearman_run.marks("mark-began"))
        job_server.kill()
    job_server.start()
    until(lambda: job_server.status("plain_echo")[2] == 1)

    with peers(job_server) as (after,):
        assert after.call("plain_add", as_json(a=1, b=2)) == b"3"
    until(
        lambda: "result is refused" in gearman_run.log() or "its lease was taken away" in gearman_run.log(),
        message=gearman_run.log(),
    )


@pytest.mark.slow
def test_a_server_that_hangs_is_left_and_the_others_are_served(tmp_path: Path, job_server: Gearmand) -> None:
    with (
        started() as other,
        Running(tmp_path, "run", f"{job_server.server},{other.server}") as running,
        peers(other) as (client,),
    ):
        assert client.call("plain_add", as_json(a=1, b=1)) == b"2"
        job_server.process.send_signal(signal.SIGSTOP)  # type: ignore[union-attr]

        for number in range(10):
            assert client.call("plain_add", as_json(a=number, b=1)) == str(number + 1).encode()
        running.said("does not answer: connecting anew")
        assert client.call("plain_add", as_json(a=2, b=1)) == b"3"
        assert running.ends() == 0


def test_servers_that_hang_keep_the_pool_from_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at servers that may have jobs, and do not answer, ends; what the first of them has is claimed."""
    monkeypatch.setattr("skunkqueue.gearman.servers.GRAB_ANYWAY", 1e9)
    monkeypatch.setattr("skunkqueue.gearman.servers.UNANSWERED", 1e9)
    with (
        started() as hung,
        started() as slow,
        source_at(hung.server, slow.server) as source,
        peers(slow) as (client,),
    ):
        channel = ready_channel(source)
        for server in (hung, slow):
            server.process.send_signal(signal.SIGSTOP)  # type: ignore[union-attr]
        channel.watch([], 60.0, Asked([want()], ticks(), ticks() + 15))
        end = ticks() + 4 * SLOW
        while ticks() < end:
            select.select([channel.caught_fd], [], [], SLOW)
            assert channel.caught() is None

        slow.process.send_signal(signal.SIGCONT)  # type: ignore[union-attr]
        client.submit("job", b"x", background=True)

        (found,) = until(lambda: caught(channel))
        assert data_of(found) == b"x"


def ready_channel(source: GearmanSource) -> Channel:
    """A channel to servers that have all said that they may have jobs."""
    source.servers.open()
    until(lambda: [source.servers.wait_for_answers(0.05), all(c.is_hot for c in source.servers.connections)][1])
    channel = source.channel("gearman")
    assert channel is not None
    return channel


def caught(channel: Channel, timeout: float = 0.1) -> list[Claim]:
    """What the watch has claimed, if its descriptor can be read within these seconds."""
    if not select.select([channel.caught_fd], [], [], timeout)[0]:
        return []
    found = channel.caught()
    return [] if found is None else found.result.claims


def test_news_that_another_thread_reads_reach_the_watch(
    job_server: Gearmand, gearman_peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skunkqueue.gearman.servers.GRAB_ANYWAY", 1e9)
    with source_at(job_server.server) as source:
        channel = ready_channel(source)
        channel.watch([], 60.0, Asked([want()], ticks(), ticks() + 15))
        (connection,) = source.servers.connections
        until(lambda: [caught(channel), not connection.is_hot and not connection.is_owing][1])
        while select.select([channel.caught_fd], [], [], 0.1)[0]:
            assert channel.caught() is None
        gearman_peer.submit("job", b"x", background=True)

        until(lambda: [source.servers.wait_for_answers(0.05), connection.is_hot][1])

        (found,) = until(lambda: caught(channel))
        assert data_of(found) == b"x"


def test_a_job_that_has_just_come_is_not_given_back(job_server: Gearmand, gearman_peer: Peer) -> None:
    with source_at(job_server.server) as source:
        ready_channel(source)
        gearman_peer.submit("job", b"x")
        asking = source.servers.begin([], [want()], now=ticks())
        until(lambda: [source.servers.wait_for_answers(0.05), asking.is_over][1])

        source.beat("it", "", until=0.0)

        (found,) = source.servers.end(asking, ticks(), ticks() + 15).claims
        assert data_of(found) == b"x"


def test_what_several_servers_gave_at_once_is_claimed_next() -> None:
    with started() as one, started() as two, source_at(one.server, two.server) as source:
        ready_channel(source)
        for server in (one, two):
            with peers(server) as (client,):
                client.submit("job", b"x", background=True)
        asking = source.servers.begin([], [want()], now=ticks())
        for connection in set(source.servers.connections) - asking.asked:  # as where the first is slow
            source.servers._ask(asking, connection, (), 1)
        until(lambda: [source.servers.wait_for_answers(0.05), asking.is_over][1])

        found = source.servers.end(asking, ticks(), ticks() + 15)

        assert len(found.claims) == 1
        assert found.next_ripe is not None and found.next_ripe <= ticks()
        assert len(source.exchange([], [want()], now=ticks(), until=ticks() + 15).claims) == 1


def test_more_is_taken_ahead_only_once_something_has_ended(job_server: Gearmand) -> None:
    """Else the first of several pools takes all that there is, exchange by exchange, and the others have none."""
    with source_at(job_server.server) as source:
        ready_channel(source)
        with peers(job_server) as (client,):
            for _ in range(8):
                client.submit("job", b"x", background=True)
        first = claim(source)
        for _ in range(3):
            found = source.exchange([], [want()], now=ticks(), until=ticks() + 15)
            assert len(found.claims) == 1
            assert found.next_ripe is not None and found.next_ripe > ticks() + 1

        found = source.exchange([(first[0], done())], [want()], now=ticks(), until=ticks() + 15)

        assert len(found.claims) == 1
        assert found.next_ripe is not None and found.next_ripe <= ticks()


def test_an_exchange_ends_where_its_source_is_closed(job_server: Gearmand) -> None:
    with source_at(job_server.server) as source:
        ready_channel(source)
        job_server.process.send_signal(signal.SIGSTOP)  # type: ignore[union-attr]
        asking = threading.Thread(target=source.exchange, args=([], [want()]), kwargs={"now": ticks(), "until": 1e9})
        asking.start()
        until(lambda: source.servers._askings)

        source.close()

        asking.join(LIMIT)
        assert not asking.is_alive()


@contextmanager
def slamming() -> Iterator[tuple[str, list[float]]]:
    """A server that closes each connection at once, as a proxy does that has nobody behind it; and when it did."""
    times: list[float] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    link, _ = listener.accept()
                    times.append(ticks())
                    link.recv(1)
                    link.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}", times
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_server_that_closes_every_connection_is_dialed_after_pauses() -> None:
    with slamming() as (server, times), source_at(server) as source:
        source.servers.open()
        until(lambda: [source.wait([WorkKey("gearman", ROUTE)], 0.1), len(times) >= 6][1])

        # By five pauses that double, from 0.025 to 0.05 s on.
        assert times[5] - times[0] > 0.025 * 31


def test_a_worker_dials_a_server_that_closes_every_connection_after_pauses() -> None:
    with slamming() as (server, times):
        worker = GearmanWorker([server])
        worker.register_task("job", lambda worker, job: b"")
        thread = threading.Thread(target=worker.work)
        thread.start()
        until(lambda: len(times) >= 6)
        worker.shutdown()
        thread.join()

        assert times[5] - times[0] > 0.025 * 31


def test_a_worker_keeps_its_connection_where_it_was_dialed_twice(job_server: Gearmand) -> None:
    links = PolledConnections([JobServer.parse(job_server.server)], "it")
    try:
        links.tend(["job"])
        (connection,) = links.all
        until(lambda: [links.wait(0.05), links.tend(["job"]), connection.is_up][2])
        second = open_socket(connection.server)

        links._found(connection, second)
        links.tend(["job"])

        assert connection.generation == 1
        assert second.fileno() == -1
    finally:
        links.close()


def test_a_client_that_dies_does_not_disturb(gearman_run: Running, job_server: Gearmand, gearman_peer: Peer) -> None:
    with peers(job_server) as (dying,):
        dying.submit("plain_sleep", as_json(seconds=1))
        until(lambda: gearman_run.marks("mark-began"))

    until(lambda: gearman_run.marks("mark-ended"))
    assert gearman_peer.call("plain_add", as_json(a=1, b=2)) == b"3"
    assert job_server.status("plain_sleep")[0] == 0
