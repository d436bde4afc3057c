"""Servers for the tests that speak MongoDB's protocol: one in Java, or the one that SKUNKQUEUE_TEST_MONGODB names."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pools import children
from redis_server import Certificates, free_port

URL = "SKUNKQUEUE_TEST_MONGODB"
"""Names another server for these tests, by its URL without a database: a MongoDB, or what is compatible with it."""

SCRIPTS = Path(__file__).parent / "servers"
LIMIT = 60.0

_numbers = itertools.count()


class JavaServer:
    """A mongo-java-server in a process of its own. It keeps nothing, and ends with this process."""

    def __init__(self, port: int = 0) -> None:
        self.port = port or free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mongodb://127.0.0.1:{self.port}"

    def start(self) -> JavaServer:
        command = [
            "java",
            "-XX:TieredStopAtLevel=1",
            "-cp",
            f"{_jars()}/*",
            str(SCRIPTS / "Launcher.java"),
            str(self.port),
        ]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line == b"listening\n":
                return self
        raise RuntimeError("the server in Java has not started")

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def __enter__(self) -> JavaServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()


def _jars() -> str:
    """The folder of the server's jars."""
    if shutil.which("java") is None:
        pytest.skip("there is no server that speaks MongoDB's protocol: java is not installed")
    return _found("mongo-java-server")


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "skunkqueue-tests"


def _found(script: str) -> str:
    """The folder that a script has fetched a server into. Where it could not: skips."""
    found = subprocess.run([SCRIPTS / script], capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip(f"there is no server {script}: {found.stderr.strip()}")
    return found.stdout.strip().splitlines()[-1]


class FerretServer:
    """A FerretDB with its PostgreSQL, each in a process of its own, which can be killed and started again.

    What it has confirmed is on the disk.
    """

    def __init__(self) -> None:
        self._folder = _cache() / "ferretdb-2.7.0"
        if not (self._folder / "ready").exists():  # fetching it takes minutes
            pytest.skip("there is no FerretDB: tests/servers/ferretdb has not fetched one")
        self._root = self._folder / "root"
        self._home = Path(tempfile.mkdtemp(prefix="skunk-ferretdb-", dir=self._root / "srv"))
        self._inside = f"/srv/{self._home.name}"
        self.port, self._postgres_port = free_port(), free_port()
        self.postgres: subprocess.Popen[bytes] | None = None
        self.ferretdb: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mongodb://127.0.0.1:{self.port}"

    def start(self) -> FerretServer:
        if not (self._home / "data").exists():
            self._make()
        self.start_postgres()
        self._psql("CREATE EXTENSION IF NOT EXISTS documentdb CASCADE")
        self.start_ferretdb()
        return self

    def _make(self) -> None:
        subprocess.run(["chroot", self._root, "chown", "postgres", self._inside], check=True)
        self._run(
            "initdb", "-D", f"{self._inside}/data", "-A", "trust", "-U", "postgres", "--no-sync", "--locale=C.UTF-8"
        )
        with (self._home / "data/postgresql.conf").open("a") as settings:
            settings.write(
                f"listen_addresses = '127.0.0.1'\nport = {self._postgres_port}\nunix_socket_directories = ''\n"
                "dynamic_shared_memory_type = mmap\nmax_connections = 200\ncron.database_name = 'postgres'\n"
                "shared_preload_libraries = 'pg_cron,pg_documentdb_core,pg_documentdb'\n"
            )

    def start_postgres(self) -> None:
        command = self._command("postgres", "-D", f"{self._inside}/data")
        self.postgres = self._spawn(command, "postgres.log")
        self._until(lambda: self._psql("SELECT 1"))

    def start_ferretdb(self) -> None:
        command = self._ferretdb_command(f"127.0.0.1:{self.port}", self._home / "state")
        self.ferretdb = self._spawn([*command, "--no-auth"], "ferretdb.log")
        self._until(lambda: self._ping())

    def _ferretdb_command(self, address: str, state: Path) -> list[str]:
        return [
            "setpriv", "--pdeathsig=KILL", str(self._folder / "bin/ferretdb"), "--listen-addr", address,
            "--postgresql-url", f"postgres://postgres@127.0.0.1:{self._postgres_port}/postgres",
            "--telemetry", "disable", "--debug-addr", "", "--state-dir", str(state),
        ]  # fmt: skip

    @contextlib.contextmanager
    def guarded(self, user: str, password: str, certificates: Certificates) -> Iterator[int]:
        """The port of one more FerretDB on the same data, which wants TLS and this user."""
        client = client_of(self.url)
        roles = [{"role": "readWriteAnyDatabase", "db": "admin"}, {"role": "clusterAdmin", "db": "admin"}]
        client.admin.command("createUser", user, pwd=password, roles=roles)
        client.close()
        port = free_port()
        tls = ["--listen-tls", f"127.0.0.1:{port}", "--listen-tls-cert-file", certificates.cert]
        tls += ["--listen-tls-key-file", certificates.key]
        command = self._ferretdb_command("", self._home / "guarded")
        process = self._spawn([*command, *tls], "guarded.log")
        try:
            self._until(lambda: socket.create_connection(("127.0.0.1", port), 5).close())
            yield port
        finally:
            process.kill()
            process.wait(LIMIT)

    def kill_postgres(self) -> None:
        """As a machine that dies: all of its processes, and the next start recovers."""
        assert self.postgres is not None
        for pid in (self.postgres.pid, *children(self.postgres.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.postgres.wait(LIMIT)
        self.postgres = None
        (self._home / "data/postmaster.pid").unlink(missing_ok=True)  # its number may be another's by now

    def kill_a_connection(self) -> None:
        """Kill one of the processes that serve FerretDB: PostgreSQL then ends the others too, and recovers."""
        assert self.postgres is not None
        os.kill(max(children(self.postgres.pid)), signal.SIGKILL)

    def kill_ferretdb(self) -> None:
        assert self.ferretdb is not None
        self.ferretdb.kill()
        self.ferretdb.wait(LIMIT)
        self.ferretdb = None

    def close(self) -> None:
        if self.ferretdb is not None:
            self.kill_ferretdb()
        if self.postgres is not None:
            self.kill_postgres()
        shutil.rmtree(self._home, ignore_errors=True)

    def _spawn(self, command: list[str], log: str) -> subprocess.Popen[bytes]:
        with (self._home / log).open("ab") as file:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)

    def _command(self, program: str, *args: str) -> list[str]:
        path = f"/usr/lib/postgresql/18/bin/{program}"
        # With this process they end, however it ends.
        as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--pdeathsig=QUIT"]
        return ["chroot", str(self._root), *as_postgres, path, *args]

    def _run(self, program: str, *args: str) -> None:
        subprocess.run(self._command(program, *args), check=True, capture_output=True)

    def _psql(self, text: str) -> None:
        self._run("psql", "-h", "127.0.0.1", "-p", str(self._postgres_port), "-U", "postgres", "-c", text)

    def _ping(self) -> None:
        client = client_of(self.url)
        try:
            client.admin.command("ping")
        finally:
            client.close()

    def _until(self, call: Callable[[], None]) -> None:
        end = time.monotonic() + LIMIT
        while True:
            try:
                return call()
            except Exception:
                if time.monotonic() > end:
                    raise
            time.sleep(0.1)

    def __enter__(self) -> FerretServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()


def fresh_url(url: str) -> str:
    """The URL of a database of that server that was never used."""
    head, mark, options = url.partition("?")
    return f"{head.rstrip('/')}/skunk-{os.getpid()}-{next(_numbers)}{mark}{options}"


def drop(url: str, named: Callable[[str], bool]) -> None:
    """Drop databases."""
    client = client_of(url)
    for name in client.list_database_names():
        if named(name):
            client.drop_database(name)
    client.close()


def client_of(url: str) -> Any:
    """A client of the user's own."""
    from pymongo import MongoClient

    return MongoClient(url, serverSelectionTimeoutMS=5000)
