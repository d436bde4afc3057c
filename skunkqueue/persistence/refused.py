"""Tells a connection that never came about from one that broke: its error says all in one sentence."""

from __future__ import annotations

import socket
from typing import Final

_NEVER: Final = (ConnectionRefusedError, FileNotFoundError, socket.gaierror)
"""Nobody listens there, there is no such socket file, or no such host."""


def worth_showing(error: Exception) -> Exception | None:
    """The error of a driver, as the cause of ours; None where nobody could be reached at all.

    A driver's own calls on the way to a refused connection fill a screen and tell nothing.
    """
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, _NEVER) or type(found).__name__ == "ServerSelectionTimeoutError":
            return None
        found = found.__cause__ or found.__context__
    return error
