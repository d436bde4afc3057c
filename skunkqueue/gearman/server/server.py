"""GearmanServer: a Gearman job server whose jobs are runs on a queue of any store."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import socket
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Final, TextIO

from skunkqueue.clock import ticks
from skunkqueue.envelope import Outcome
from skunkqueue.errors import WrongCall
from skunkqueue.gearman.errors import ProtocolError
from skunkqueue.gearman.protocol import DEFAULT_PORT, Line, Packet
from skunkqueue.gearman.server.admin import AdminCommands
from skunkqueue.gearman.server.calls import StoreCalls
from skunkqueue.gearman.server.clients import ClientRequests
from skunkqueue.gearman.server.loop import PeerLoop
from skunkqueue.gearman.server.peer import Peer
from skunkqueue.gearman.server.replies import error
from skunkqueue.gearman.server.service import Service
from skunkqueue.gearman.server.upkeep import Upkeep
from skunkqueue.gearman.server.watch import YOUNG, StoreWatch
from skunkqueue.gearman.server.workers import WorkerRequests
from skunkqueue.queue import SkunkQueue
from skunkqueue.signals import ROUGH_SIGNALS, catch, give_back
from skunkqueue.worker import ERROR, WARNING, Log

QUEUE: Final = "gearman"
KEEP: Final = 600.0
LEASE: Final = 15.0
MAX_PAYLOAD: Final = 16 << 20
BUDGET: Final = 256 << 20
FIELDS: Final = 1 << 10
"""Bytes of a packet beside its data."""
FAREWELL: Final = 5.0
"""Seconds that a stop waits for the store to take the jobs back that were running."""


class GearmanServer:
    """A job server for Gearman clients and workers in any language, on a store of SkunkQueue.

    ``url`` is the store, by default ``memory://``; in any other one, background jobs survive this server. ``queue`` is
    the queue that its jobs are runs of, each function a route. ``listen`` are addresses, ``HOST`` or ``HOST:PORT``; by
    default only this machine can connect. ``port`` 0 takes a free one: see ``address``. ``keep`` are the seconds for
    which ended jobs can be looked at. ``job_retries`` is how often a job is tried whose worker went away or took too
    long; 0 is no limit. ``lease`` is the time in seconds after which others take the jobs over that this server holds,
    once it is gone without a word. ``max_payload`` are bytes of one job's data or result, ``budget`` the bytes that all
    connections together may take up.

    As a context manager it serves on a thread; ``run`` serves on this one until a signal. Raises WrongCall.
    """

    def __init__(
        self,
        url: str | None = None,
        port: int = DEFAULT_PORT,
        *,
        listen: str | Sequence[str] = "127.0.0.1",
        queue: str = QUEUE,
        keep: float = KEEP,
        job_retries: int = 0,
        lease: float = LEASE,
        max_payload: int = MAX_PAYLOAD,
        budget: int = BUDGET,
        grace: float | None = None,
        log: TextIO | None = None,
        log_format: str = "text",
        verbose: bool = False,
    ) -> None:
        self.queue: SkunkQueue = SkunkQueue(queue, "memory://gearman" if url is None else url)
        self._listen = [_address(each, port) for each in ([listen] if isinstance(listen, str) else listen)]
        for name, number in (("keep", keep), ("job_retries", job_retries), ("lease", lease)):
            least = int(name == "lease")
            if not least <= number < float("inf"):
                raise WrongCall(f"{name} is a number from {least} up; got {number!r}")
        for name, size in (("max_payload", max_payload), ("budget", budget)):
            if size < 1:
                raise WrongCall(f"{name} is a number of bytes; got {size!r}")
        self._options: dict[str, Any] = {"keep": keep, "job_retries": job_retries, "max_payload": max_payload}
        self._lease = lease
        self._budget = budget
        self._grace = grace
        self._log = Log(log, verbose=verbose, format=log_format)
        self._loop: PeerLoop | None = None
        self._thread: threading.Thread | None = None
        self._signals = 0
        self._ended = threading.Event()
        self._failure: BaseException | None = None

    # what people do with it

    def __enter__(self) -> GearmanServer:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> GearmanServer:
        """Serve on a thread of its own; returns once it listens. Raises WrongCall, or what the store raises."""
        self._open()
        self._thread = threading.Thread(target=self._serve, name="skunkqueue-gearman-server", daemon=True)
        self._thread.start()
        return self

    def stop(self, *, gracefully: bool = False, timeout: float | None = None) -> None:
        """Stop serving, from any thread: the jobs that run go back to the queue, and will be run again.

        ``gracefully`` waits until they have ended, up to ``timeout`` seconds; meanwhile none are given out.
        """
        loop = self._loop
        if loop is None:
            return
        if gracefully:
            loop.post(self._leave)
            if self._ended.wait(timeout):
                self._join()
                return
        loop.post(loop.stop)
        self._join()

    def run(self) -> None:
        """Serve until a signal. Raises WrongCall, or what the store raises."""
        caught = catch(self._on_signal) if threading.current_thread() is threading.main_thread() else {}
        try:
            self._open()
            self._heed()
            self._serve()
        finally:
            give_back(caught)
        if self._failure is not None:
            raise self._failure

    @property
    def addresses(self) -> list[str]:
        """Where it listens, each as HOST:PORT, once it does."""
        return [_joined(host, port) for host, port in (self._loop.addresses if self._loop else [])]

    @property
    def address(self) -> str:
        """The first of them. Raises WrongCall before it listens."""
        if not self.addresses:
            raise WrongCall("this server does not listen yet: start it first")
        return self.addresses[0]

    # serving

    def _open(self) -> None:
        if self._loop is not None:
            raise WrongCall("this server runs already")
        store = self.queue.store
        self.queue.clock.now()
        self._ended.clear()
        handler = _Handler()
        most = self._options["max_payload"] + FIELDS
        loop = PeerLoop(handler, max_packet=most, budget=self._budget)
        try:
            loop.listen(self._listen)
        except WrongCall:
            loop.shut()
            self.queue.close()
            raise
        self._loop = loop
        name = f"gearman-{socket.gethostname().split('.')[0]}-{os.getpid()}-{os.urandom(2).hex()}"
        service = Service(
            name=name,
            queue=self.queue,
            store=store,
            loop=loop,
            calls=StoreCalls(self.queue, loop.post, self._warn, handler.failed, lease=self._lease),
            log=self._log,
            **self._options,
        )
        handler.serve(service, self._shut, lambda: self.addresses)
        self._handler = handler
        self._log.say(f"serving Gearman on {', '.join(self.addresses)}: queue {self.queue.name} of {self.queue.url}")
        for host, port in loop.addresses:
            if not _is_local(host):
                self._warn(
                    f"anyone who can reach {_joined(host, port)} can submit jobs, take them, and end this server"
                )
        if self.queue.one_process:
            self._log.say("the store lives in this process only: jobs do not survive it")
        self._log.flush()

    def _serve(self) -> None:
        loop, handler = self._loop, self._handler
        assert loop is not None
        try:
            loop.run()
            handler.farewell()
        except BaseException as failure:
            self._failure = failure
            self._log.say(f"the server ends: {type(failure).__name__}: {failure}", what="failed", level=WARNING)
            if threading.current_thread() is threading.main_thread():
                raise
        finally:
            handler.close()
            loop.shut()
            self._loop = None
            self._log.say("stopped serving Gearman")
            self._log.close()
            self.queue.close()
            self._ended.set()

    def _join(self) -> None:
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
            self._thread = None

    def _leave(self) -> None:
        """On the loop's thread: end once nothing runs."""
        loop = self._loop
        if loop is None or self._handler.service.is_leaving:
            return
        loop.stop_listening()
        self._handler.service.is_leaving = True
        if self._grace is not None:
            loop.at(ticks() + self._grace, loop.stop)

    def _shut(self, gracefully: bool) -> None:
        """An admin asked for it."""
        loop = self._loop
        if loop is None:
            return
        if gracefully:
            self._leave()
        else:
            loop.at(ticks() + 0.05, loop.stop)  # once the answer is sent

    def _on_signal(self, number: int, frame: Any) -> None:
        is_rough = signal.Signals(number).name in ROUGH_SIGNALS
        self._signals += 2 if is_rough else 1
        self._heed()

    def _heed(self) -> None:
        """Do what the signals so far ask for, once there is a loop."""
        loop = self._loop
        if loop is not None and self._signals:
            loop.post(loop.stop if self._signals > 1 else self._leave)

    def _warn(self, text: str) -> None:
        self._log.say(text, what="server", level=WARNING)
        self._log.flush()


class _Handler:
    """What the loop tells of, handed to those who deal with it."""

    def serve(self, service: Service, shut: Callable[[bool], None], addresses: Callable[[], Sequence[str]]) -> None:
        self.service = service
        self._clients = ClientRequests(service)
        self._workers = WorkerRequests(service)
        self._admin = AdminCommands(service, shut)
        self._watch = StoreWatch(service)
        self._attached = 0  # how often clients had begun to await jobs when the watch was told so
        self._is_hurried, self._hurries_from = False, 0.0
        self._upkeep = Upkeep(service, addresses)
        self._handlers = {**self._clients.handlers, **self._workers.handlers}
        service.loop.at(ticks(), self._tick_watch)
        service.loop.at(ticks(), self._tick_upkeep)

    def opened(self, peer: Peer) -> None:
        """It is known by being among the peers of the loop."""

    def received(self, peer: Peer, item: Packet | Line) -> None:
        if isinstance(item, Line):
            self._admin.run(peer, item)
        else:
            self._handlers[item.type](peer, item)

    def confused(self, peer: Peer, problem: ProtocolError) -> None:
        """Tell the peer, and end its connection: where its next packet begins cannot be known."""
        self._say_of(peer, str(problem))
        self._workers.confused(peer, problem)
        peer.send(error("INVALID_PACKET", str(problem)[:500]))
        peer.is_ending = True

    def closed(self, peer: Peer, reason: str) -> None:
        if reason:
            self._say_of(peer, reason)
        self._workers.gone(peer)
        self._clients.gone(peer)

    def failed(self, error: Exception) -> None:
        """A fault of ours, which must not end the server."""
        text = "".join(traceback.format_exception(error))
        self.service.log.say(f"a fault of the server: {error!r}", what="failed", level=ERROR, traceback=text)
        self.service.log.flush()

    def _say_of(self, peer: Peer, reason: str) -> None:
        self.service.log.say(f"the connection of {peer} ends: {reason}", what="closed", level=WARNING)
        self.service.log.flush()

    def after_turn(self) -> float | None:
        service = self.service
        if service.look_at == 0.0:
            self._watch.look()
        if service.jobs.attached != self._attached and not self._is_hurried:
            self._attached, self._is_hurried = service.jobs.attached, True
            service.loop.at(max(ticks() + YOUNG, self._hurries_from), self._tick_once)
        left = service.calls.flush()
        if service.is_leaving and service.calls.is_idle and not any(job.peer for job in service.jobs):
            service.loop.stop()
        return left

    def _tick_watch(self) -> None:
        self.service.loop.at(ticks() + self._watch.tick(), self._tick_watch)

    def _tick_once(self) -> None:
        """Somebody awaits a job since a moment ago, which may be run elsewhere."""
        self._is_hurried = False
        began = ticks()
        self._watch.tick()
        self._hurries_from = ticks() + 10 * (ticks() - began)  # at most a tenth of the time goes into this

    def _tick_upkeep(self) -> None:
        self.service.loop.at(ticks() + self._upkeep.tick(), self._tick_upkeep)

    def farewell(self) -> None:
        """Give back the jobs that run, and drop those that only clients here want."""
        service = self.service
        service.loop.stop_listening()
        for peer in list(service.loop.peers.values()):
            for job in list(peer.held.values()):
                service.calls.commit(job.release(), Outcome.untouched(), lambda taken, refusal: None)
            self._clients.gone(peer)
        self._upkeep.leave()
        end = ticks() + FAREWELL
        while ticks() < end:
            service.calls.flush()
            if service.calls.is_idle:
                break
            service.loop.turn(0.05)

    def close(self) -> None:
        self._watch.close()
        self.service.calls.close()
        self.service.calls.join(FAREWELL)


def _address(given: str, port: int) -> tuple[str, int]:
    """HOST, HOST:PORT, or [IPv6]:PORT. Raises WrongCall."""
    host, colon, number = given.rpartition(":")
    if not colon or (":" in host and not given.startswith("[")):
        host, number = given, str(port)
    host = host.strip("[]")
    if not host or not number.isdigit() or not 0 <= int(number) < 65536:
        raise WrongCall(f"an address to listen on is HOST or HOST:PORT, like 127.0.0.1:4730; got {given!r:.100}")
    return host, int(number)


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_local(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
