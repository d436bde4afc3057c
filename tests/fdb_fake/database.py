"""A database that was opened: its cluster, found by the cluster file, and the defaults of its transactions."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path
from typing import Any

from fdb_fake import codes
from fdb_fake.codes import Refusal
from fdb_fake.network import Future, Link, Network, failed
from fdb_fake.options import DEFAULTS, MAX_WATCHES, number_of

_CONNECTION = re.compile(r"[A-Za-z0-9_]+:[A-Za-z0-9]+@(?P<host>[0-9.]+):(?P<port>[0-9]+)(,.*)?\Z")


def cluster_file(named: bytes | None) -> Path:
    """The file that is named, else that of the environment, of this folder or of the platform."""
    if named:
        return Path(os.fsdecode(named))
    if os.environ.get("FDB_CLUSTER_FILE"):
        return Path(os.environ["FDB_CLUSTER_FILE"])
    here = Path("fdb.cluster")
    return here if here.exists() else Path("/etc/foundationdb/fdb.cluster")


def address(file: Path) -> tuple[str, int]:
    """Where the cluster is that a cluster file names.

    Raises:
        Refusal: no_cluster_file_found, or connection_string_invalid.
    """
    try:
        text = file.read_text()
    except OSError:
        raise Refusal(codes.NO_CLUSTER_FILE_FOUND) from None
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    found = _CONNECTION.match("".join(lines))
    if found is None:
        raise Refusal(codes.CONNECTION_STRING_INVALID)
    return found["host"], int(found["port"])


class Database:
    """Opening never fails and never waits: what is wrong with the cluster file is told by every transaction."""

    def __init__(self, network: Network, file: bytes | None) -> None:
        self.network = network
        self.defaults: dict[int, bytes | None] = {}
        self.code = 0
        self._link: Link | None = None
        self._max_watches = 10_000
        self._watches = 0
        self._lock = threading.Lock()
        try:
            self._link = Link(network, address(cluster_file(file)))
        except Refusal as refusal:
            self.code = refusal.code

    def ask(self, verb: str, *args: Any) -> Future:
        return failed(self.code) if self._link is None else self._link.ask(verb, *args)

    def set_option(self, option: int, value: bytes | None) -> None:
        if option == MAX_WATCHES:
            self._max_watches = number_of(option, value)
        elif option in DEFAULTS:
            if value is not None:
                number_of(DEFAULTS[option], value)
            self.defaults[DEFAULTS[option]] = value

    def take_watch(self) -> None:
        with self._lock:
            if self._watches >= self._max_watches:
                raise Refusal(codes.TOO_MANY_WATCHES)
            self._watches += 1

    def drop_watch(self) -> None:
        with self._lock:
            self._watches -= 1
