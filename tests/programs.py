"""What the tests of servers share: where a server's program is, a port for it, and whether it answers there."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket

import pytest


def find(program: str, package: str, *, path: str | None = None) -> str:
    """A program, first on ``path``. Without it: skips at home, fails in CI."""
    found = (shutil.which(program, path=path) if path else None) or shutil.which(program)
    if found is None:
        message = f"{program} is not installed: apt install {package}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    """Whether something listens on a port of this machine."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as link:
        # Where nobody listens, the system may take that very port for this end, and connect the socket with itself.
        return bool(link.getsockname() != link.getpeername())
    return False
