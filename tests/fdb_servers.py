"""Clusters for the tests of FoundationDB: a fake in a process of its own, or the one that SKUNKQUEUE_TEST_FDB names."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from fdb_fake import SITE
from redis_server import free_port

CLUSTER = "SKUNKQUEUE_TEST_FDB"
"""Names the cluster file of a real cluster for these tests; its client library has to be where the loader finds it."""

SERVER = "SKUNKQUEUE_TEST_FDBSERVER"
"""Names the program ``fdbserver``, beside which ``fdbcli`` lies: so tests kill and stop real clusters of their own."""

LIMIT = 30.0

_numbers = itertools.count()


def is_real() -> bool:
    return bool(os.environ.get(CLUSTER))


only_fake = pytest.mark.skipif(is_real(), reason="only the fake gives an error on demand, or lets time pass")
ours_to_kill = pytest.mark.skipif(
    is_real() and not os.environ.get(SERVER), reason=f"a real cluster is not ours to kill or stop, without {SERVER}"
)


def binding() -> Any:
    """The module ``fdb``, over the fake library unless there is a real cluster; for child processes too."""
    if not is_real():
        _put_first(SITE)
    return pytest.importorskip("fdb", reason="the binding of FoundationDB is not installed: pip install foundationdb")


def has_tenants() -> bool:
    """Whether the binding has tenants, as that of 7 has."""
    binding()
    return find_spec("fdb.tenant_management") is not None


def _put_first(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    path = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    if str(folder) not in path:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *path])


class FakeCluster:
    """A fake cluster. It ends with this process; ``start`` again after ``kill`` keeps its port and its data."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="skunk-fdb-"))
        self.port = free_port()
        self.file = self._folder / "fdb.cluster"
        self.file.write_text(f"fake:fake@127.0.0.1:{self.port}\n")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> FakeCluster:
        command = [sys.executable, "-m", "fdb_fake.server", str(self.port), "--journal", str(self._folder / "journal")]
        self.process = subprocess.Popen(
            command, cwd=Path(__file__).parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None
        if self.process.stdout.readline() != b"listening %d\n" % self.port:
            raise RuntimeError("the fake of FoundationDB has not started")
        return self

    def kill(self) -> None:
        """As a machine that dies."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        """Meanwhile the cluster hears everything and answers nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def ask(self, verb: str, *args: Any) -> Any:
        """What only tests ask of it; see ``Server`` of the fake."""
        from fdb_fake.control import ask

        return ask(self.port, verb, *args)

    def fail(self, code: int, *, took: bool, prefix: bytes = b"", skip: int = 0, count: int = 1) -> None:
        """Give this error to commits that write below a prefix: the first ``count`` of them after ``skip`` others.

        ``took`` says whether they commit all the same.
        """
        self.ask("fail", code, took, prefix, skip, count)

    def age(self, seconds: float) -> None:
        """Let all versions be that much older at once."""
        self.ask("jump", int(seconds * 1_000_000))

    def stats(self) -> dict[str, int]:
        """Of all time: ``commits`` and ``conflicts``; now: ``watches`` and ``version``."""
        found: dict[str, int] = self.ask("stats")
        return found

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> FakeCluster:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()


class RealCluster:
    """A real cluster of one process, for tests that kill it or stop it; as ``FakeCluster``."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="skunk-fdb-"))
        self.port = free_port()
        self.file = self._folder / "fdb.cluster"
        self.file.write_text(f"test:test@127.0.0.1:{self.port}\n")
        self.process: subprocess.Popen[bytes] | None = None
        self._is_new = True

    def start(self) -> RealCluster:
        folder = str(self._folder)
        command = [os.environ[SERVER], "-p", f"127.0.0.1:{self.port}", "-C", str(self.file), "-d", folder, "-L", folder]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        if self._is_new:
            self.tell("configure new single ssd")
            self._is_new = False
        return self

    def tell(self, command: str) -> None:
        """Have ``fdbcli`` do this."""
        cli = Path(os.environ[SERVER]).with_name("fdbcli")
        end = time.monotonic() + LIMIT
        while True:
            told = [str(cli), "-C", str(self.file), "--timeout", "10", "--exec", command]
            if subprocess.run(told, stdout=subprocess.DEVNULL, check=False).returncode == 0:
                return
            assert time.monotonic() < end, f"the cluster does not do: {command}"
            time.sleep(0.2)

    kill = FakeCluster.kill
    hanging = FakeCluster.hanging
    close = FakeCluster.close

    def __enter__(self) -> RealCluster:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()


def cluster_of_its_own() -> Any:
    """A cluster that a test may kill and stop: a real one where there is a program for it."""
    return RealCluster() if is_real() else FakeCluster()


def age(file: str | Path, seconds: float) -> None:
    """Let the versions of a cluster be that much older: the fake's at once, a real one's by waiting."""
    if is_real():
        end = time.monotonic() + seconds
        while time.monotonic() < end:  # a cluster that idles may let time pass unseen
            opened(file)[b"skunk-time-passes"] = b""
            time.sleep(0.25)
        del opened(file)[b"skunk-time-passes"]
        return
    from fdb_fake.control import ask

    port = int(Path(file).read_text().rpartition(":")[2])
    ask(port, "jump", int(seconds * 1_000_000))


def fresh_name() -> str:
    """A name for a directory that was never used."""
    return f"skunk-{os.getpid()}-{next(_numbers)}"


def fresh_url(file: str | Path) -> str:
    """The URL of a queue's data in that cluster that was never used."""
    return f"fdb://{file}?prefix={fresh_name()}"


def opened(file: str | Path) -> Any:
    """The test's own handle to the cluster."""
    fdb = binding()
    fdb.api_version(710)
    return fdb.open(str(file))


def drop(file: str | Path, name: str) -> None:
    """Remove a directory with all that is in it."""
    database = opened(file)  # first: this chooses the API version, without which there is no directory layer
    binding().directory.remove_if_exists(database, (name,))
