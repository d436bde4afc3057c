"""Real redis-servers for the tests: on free ports of 127.0.0.1, in folders of their own, stopped by pid."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from programs import free_port as free_port

LIMIT = 30.0


PROGRAM = "SKUNKQUEUE_TEST_REDIS_SERVER"
"""Names another server's program for all of these tests: an older or newer Redis, or a Valkey."""


def find_redis_server() -> str:
    """The server's program. Without it: skips at home, fails in CI."""
    name = os.environ.get(PROGRAM) or "redis-server"
    found = shutil.which(name)
    if found is None:
        if PROGRAM in os.environ:
            pytest.fail(f"{PROGRAM} names {name}, which is no program")
        message = "redis-server is not installed: apt install redis-server"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found


class RedisServer:
    """One server; ``start`` again after ``stop`` or ``kill`` keeps its folder and port."""

    def __init__(self, *options: str, folder: str | None = None, tls: bool = False, port: int | None = None) -> None:
        self.folder = folder or tempfile.mkdtemp(prefix="skunk-redis-")
        self.port = port or free_port()
        self.tls = tls
        self.options = options
        self.password = _after(options, "--requirepass")
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def socket_path(self) -> str:
        return str(Path(self.folder) / "redis.sock")

    def command(self) -> list[str]:
        port = ["--port", "0"] if self.tls else ["--port", str(self.port)]
        return [
            find_redis_server(), *port, "--bind", "127.0.0.1", "--dir", self.folder, "--unixsocket", self.socket_path,
            "--save", "", "--daemonize", "no", "--logfile", str(Path(self.folder) / "log"),
            *self.options,
        ]  # fmt: skip

    def start(self) -> RedisServer:
        self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        self._await()
        return self

    def _await(self) -> None:
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            assert self.process is not None and self.process.poll() is None, self.log()
            with contextlib.suppress(OSError, redis.ConnectionError, redis.BusyLoadingError, redis.TimeoutError):
                # Old versions of redis-py leave a socket open that could not be connected.
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.connect(self.socket_path)
                with self.client() as client:
                    client.ping()
                return
            time.sleep(0.02)
        raise TimeoutError(self.log())

    def log(self) -> str:
        path = Path(self.folder) / "log"
        return path.read_text() if path.exists() else "(no log)"

    def client(self) -> redis.Redis:
        """A plain client, by the unix socket, for looking into the server."""
        return redis.Redis(unix_socket_path=self.socket_path, password=self.password)

    def ask(self, *words: str | int | bytes) -> Any:
        """What the server answers to this command."""
        with self.client() as client:
            return client.execute_command(*words)

    def stop(self) -> None:
        """SIGTERM, as an operator would."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(how)
            self.process.wait(LIMIT)
        self.process = None

    def cut_log(self) -> None:
        """As an operator does after a crash: cut a half-written transaction off the append-only file, whole.

        Left to itself, Redis cuts off the half-written command only. It executes the rest of that transaction when it
        starts the next time but one, together with what was appended since.
        """
        tool = Path(find_redis_server()).with_name("redis-check-aof")
        for file in [*Path(self.folder).glob("appendonlydir/*.manifest"), *Path(self.folder).glob("appendonly.aof")]:
            subprocess.run([tool, "--fix", file], input=b"y\n", stdout=subprocess.DEVNULL, check=True, timeout=LIMIT)

    def close(self) -> None:
        self._end(signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> RedisServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()


def _after(options: Sequence[str], name: str) -> str | None:
    return options[options.index(name) + 1] if name in options else None


class CuttingProxy:
    """A way to a server that can lose a reply: the server has done what it was asked, and nobody hears of it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._left: int | None = None
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self.cuts = 0
        self.answered = 0
        """Bytes that the server has answered."""
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def cut_after(self, replies: int) -> None:
        """Let so many replies pass, then lose one, with its connection."""
        with self._lock:
            self._left = replies

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._port))
            self._sockets += [client, server]
            threading.Thread(target=self._pump, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, True), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, is_reply: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 20):
                self.answered += len(data) if is_reply else 0
                if is_reply and self._is_lost():
                    break
                target.sendall(data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _is_lost(self) -> bool:
        with self._lock:
            if self._left is None:
                return False
            self._left -= 1
            if self._left >= 0:
                return False
            self._left = None
            self.cuts += 1
            return True

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # or the thread would take one more, from whoever comes again
        self._accepting.join(10)
        self._listener.close()
        for each in self._sockets:
            each.close()

    def __enter__(self) -> CuttingProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def fake_redis(monkeypatch: pytest.MonkeyPatch) -> str:
    """A new, empty Redis in Python behind our own connections; gives its URL."""
    from fakeredis import FakeRedisConnection, FakeServer

    from skunkqueue.persistence.redis.url import Target

    server = FakeServer(version=7)

    def connection_to(target: Target, host: str, port: int) -> FakeRedisConnection:
        return FakeRedisConnection(server=server, protocol=2, **target.options)

    monkeypatch.setattr(importlib.import_module("skunkqueue.persistence.redis.connect"), "connection_to", connection_to)
    fake_servers[:] = [server]
    return FAKE


FAKE = "redis://fake:6379/0"
fake_servers: list[object] = []
"""The one that is at FAKE now."""


def client_of(url: str) -> redis.Redis:
    """A client of the user's own, to the server at a URL, real or not."""
    if url != FAKE:
        return redis.Redis.from_url(url)
    from fakeredis import FakeRedis

    return FakeRedis(server=fake_servers[0])


_CERTIFICATES = """\
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature, keyEncipherment
extendedKeyUsage = serverAuth
subjectAltName = IP:127.0.0.1, DNS:localhost
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""
"""All that a strict check asks of certificates, which is the default from Python 3.13."""


class Certificates:
    """A certificate authority of our own, and a server's and a client's certificate by it."""

    def __init__(self, folder: str) -> None:
        self.ca, self.key, self.cert = (str(Path(folder) / name) for name in ("ca.crt", "server.key", "server.crt"))
        ca_key, config = str(Path(folder) / "ca.key"), Path(folder) / "certificates.cnf"
        request = str(Path(folder) / "server.csr")
        config.write_text(_CERTIFICATES)
        _openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", ca_key, "-out", self.ca,
                 "-days", "2", "-config", str(config), "-extensions", "authority",
                 "-subj", "/CN=skunk test authority")  # fmt: skip
        _openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", self.key, "-out", request,
                 "-config", str(config), "-subj", "/CN=localhost")  # fmt: skip
        _openssl("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", ca_key, "-CAcreateserial",
                 "-out", self.cert, "-days", "2", "-extfile", str(config), "-extensions", "server")  # fmt: skip


def _openssl(*args: str) -> None:
    subprocess.run(["openssl", *args], check=True, capture_output=True)


@contextlib.contextmanager
def tls_server(folder: str) -> Iterator[tuple[RedisServer, str]]:
    """A server that speaks TLS only, and asks for no client certificate; with a URL to it."""
    certificates = Certificates(folder)
    port = free_port()
    options = ["--tls-port", str(port), "--tls-cert-file", certificates.cert, "--tls-key-file", certificates.key,
               "--tls-ca-cert-file", certificates.ca, "--tls-auth-clients", "no"]  # fmt: skip
    with RedisServer(*options, tls=True, port=port) as server:
        yield server, f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificates.ca}"


@contextlib.contextmanager
def sentinel_servers() -> Iterator[tuple[RedisServer, RedisServer, str]]:
    """A master, its replica and one sentinel that is enough to fail over; with a URL."""
    with RedisServer() as master, RedisServer("--replicaof", "127.0.0.1", str(master.port)) as replica:
        _until(lambda: replica.ask("INFO", "replication")["master_link_status"] == "up")
        folder = tempfile.mkdtemp(prefix="skunk-sentinel-")
        port = free_port()
        config = Path(folder) / "sentinel.conf"
        config.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {folder}\nlogfile {folder}/log\n"
            f"sentinel monitor skunk-master 127.0.0.1 {master.port} 1\n"
            "sentinel down-after-milliseconds skunk-master 500\nsentinel failover-timeout skunk-master 3000\n"
        )
        process = subprocess.Popen([find_redis_server(), str(config), "--sentinel"], stdout=subprocess.DEVNULL)
        try:
            with redis.Redis(port=port) as sentinel:
                _until(lambda: _sees_replica(sentinel))
            yield master, replica, f"redis+sentinel://127.0.0.1:{port}/skunk-master/0"
        finally:
            process.kill()
            process.wait(LIMIT)
            shutil.rmtree(folder, ignore_errors=True)


def _sees_replica(sentinel: redis.Redis) -> bool:
    try:
        return int(dict(_pairs(sentinel.execute_command("SENTINEL", "MASTERS")))["num-slaves"]) > 0
    except redis.ConnectionError:  # it is only starting
        return False


def _pairs(reply: object) -> list[tuple[str, str]]:
    """redis-py's versions parse this answer differently."""
    if isinstance(reply, dict):
        return [(str(key), str(value)) for master in reply.values() for key, value in master.items()]
    first = reply[0]  # type: ignore[index]
    if isinstance(first, dict):
        return [(_text(key), _text(value)) for key, value in first.items()]
    return [(_text(key), _text(value)) for key, value in zip(first[::2], first[1::2], strict=True)]


def _text(item: object) -> str:
    return item.decode() if isinstance(item, bytes) else str(item)


@contextlib.contextmanager
def cluster_servers() -> Iterator[tuple[list[RedisServer], str]]:
    """Three small masters that share the slots; with a URL."""
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(
                RedisServer("--cluster-enabled", "yes", "--cluster-node-timeout", "5000", port=_free_port_and_bus())
            )
            for _ in range(3)
        ]
        _join(servers)
        yield servers, "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in servers)


def _free_port_and_bus() -> int:
    """A free port; so is the one ten thousand above, where servers of a cluster talk to each other."""
    while True:
        port = free_port()
        with contextlib.suppress(OSError, OverflowError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port + 10_000))
            return port


def _join(servers: Sequence[RedisServer]) -> None:
    bounds = [0, 5461, 10923, 16384]
    for n, server in enumerate(servers):
        server.ask("CLUSTER", "ADDSLOTS", *range(bounds[n], bounds[n + 1]))
        servers[0].ask("CLUSTER", "MEET", "127.0.0.1", server.port)
    for server in servers:
        _until(lambda server=server: _is_whole(server))
        _until(lambda server=server: len(server.ask("CLUSTER SLOTS")) == 3)


def _is_whole(server: RedisServer) -> bool:
    info = server.ask("CLUSTER INFO")
    return b"cluster_state:ok" in info if isinstance(info, bytes) else info["cluster_state"] == "ok"


def _until(condition: object) -> None:
    end = time.monotonic() + LIMIT
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.05)
