"""FoundationDB and the processes and threads that use it: versions of the client, forks, and a cluster that is away."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fdb_servers import binding, drop, fresh_name, has_tenants, only_fake

fdb = binding()

from skunkqueue import StoreError  # noqa: E402
from skunkqueue.persistence import WorkKey  # noqa: E402
from skunkqueue.persistence.fdb import FDBPersister, open_url  # noqa: E402
from skunkqueue.persistence.fdb.connect import Link  # noqa: E402
from skunkqueue.persistence.fdb.crowd import Crowd  # noqa: E402
from skunkqueue.persistence.fdb.url import parse_url  # noqa: E402
from skunkqueue.testing.makers import NOW  # noqa: E402

FOO = WorkKey("demo", "foo")


@pytest.fixture
def url(shared_fdb: str) -> Iterator[str]:
    name = fresh_name()
    yield f"fdb://{shared_fdb}?prefix={name}"
    drop(shared_fdb, name)


@pytest.fixture
def store(url: str) -> Iterator[FDBPersister]:
    with closing(open_url(url)) as made:
        made.count()
        yield made


# -- versions --------------------------------------------------------------------------------------------------------

OLD_LIBRARY = """
import sys, fdb, fdb_fake.library, skunkqueue
fdb_fake.library.MAX_API_VERSION = 720
try: skunkqueue.SkunkQueue('demo', sys.argv[1]).count()
except skunkqueue.StoreError as error: print(error)
"""


@only_fake
@pytest.mark.skipif(
    not hasattr(fdb, "LATEST_API_VERSION"), reason="no client library we take is older than this package"
)
def test_a_package_newer_than_the_client_library_is_told_in_a_sentence(url: str) -> None:
    """As pip gives it beside a cluster of the version before."""
    done = subprocess.run(
        [sys.executable, "-c", OLD_LIBRARY, url], capture_output=True, text=True, timeout=60, check=False
    )

    assert "the foundationdb package is newer than FoundationDB's client library" in done.stdout, done.stderr
    assert "pip install 'foundationdb==7.2.*'" in done.stdout


@pytest.mark.skipif(has_tenants(), reason="this client has tenants")
def test_a_client_without_tenants_says_so(url: str) -> None:
    with (
        closing(open_url(url + "&tenant=shop")) as store,
        pytest.raises(StoreError, match="names the tenant shop, and the foundationdb package here has none"),
    ):
        store.count()


# -- threads ---------------------------------------------------------------------------------------------------------

FIRST_USE = """
import sys, threading, time, fdb, skunkqueue

def count(n):
    try: said.append(skunkqueue.SkunkQueue('demo', f"{sys.argv[1]}-{n}").count()["queued"])
    except skunkqueue.SkunkError as error: said.append(error)

fdb.api_version(710)
setup = fdb.impl._capi.fdb_setup_network
fdb.impl._capi.fdb_setup_network = lambda: (time.sleep(1), setup())[1]
said = []
threads = [threading.Thread(target=count, args=(n,)) for n in range(4)]
for thread in threads: thread.start(); time.sleep(0.2)
for thread in threads: thread.join()
print(said)
"""


@only_fake
def test_threads_that_are_the_first_at_the_same_time_are_not_taken_for_a_fork(url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FIRST_USE, url], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.stdout == "[0, 0, 0, 0]\n", done.stdout + done.stderr


# -- names -----------------------------------------------------------------------------------------------------------


def receipt_of(link: Link) -> bytes:
    return link._receipt(link.space(), NOW)[1]


def test_two_threads_never_share_what_says_that_a_transaction_was_committed(
    store: FDBPersister, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each would overwrite the other's, and do again what was done."""
    together = threading.Barrier(2)
    found: list[bytes] = []

    def pid_at_the_same_moment() -> int:
        if threading.current_thread() is not threading.main_thread():
            with_the_other()
        return pid

    def with_the_other() -> None:
        try:
            together.wait(2)
        except threading.BrokenBarrierError:
            return

    pid = os.getpid()
    store._link.space()
    monkeypatch.setattr("skunkqueue.persistence.fdb.connect.os.getpid", pid_at_the_same_moment)
    threads = [threading.Thread(target=lambda: found.append(receipt_of(store._link))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(found)) == 2


def test_a_forked_process_has_names_of_its_own(url: str) -> None:
    """A handle that was made before the fork, and used after it: receipts and members are told apart by these."""
    link, crowd = Link(parse_url(url)), Crowd()
    space = _Space()
    names = [_in_fork(lambda: link._receipt(space, NOW)[1] + b" " + crowd._name) for _ in range(2)]  # type: ignore[arg-type]

    assert len({part for name in names for part in name.split(b" ", 1)}) == 4


class _Space:
    prefix = b""


def _in_fork(work: Any) -> bytes:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writing, work().hex().encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        said = file.read()
    os.waitpid(pid, 0)
    return bytes.fromhex(said.decode())


# -- a cluster that is away --------------------------------------------------------------------------------------------


def test_a_wait_keeps_to_its_time_although_the_store_was_never_reached(tmp_path: Path) -> None:
    """Nor does it wait for another thread that still tries to open it."""
    file = tmp_path / "fdb.cluster"
    file.write_text("a:b@127.0.0.1:1\n")
    with closing(open_url(f"fdb://{file}?timeout=20")) as store:
        took = []

        def wait() -> None:
            begun = time.monotonic()
            store.wait([FOO], 0.3)
            took.append(time.monotonic() - begun)

        threads = [threading.Thread(target=wait) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert max(took) < 10
