"""The name of a process in ``ps``: the one that its log has too. Where setproctitle is not installed, a short one."""

from __future__ import annotations

import contextlib
import os
from typing import Final

PR_SET_NAME: Final = 15
NO_ENV: Final = "SPT_NOENV"
"""Keeps setproctitle from writing over the environment, which others read in /proc."""
SHORT: Final = 15
"""Bytes that Linux keeps of the name of a thread, which ``top`` and ``ps -o comm`` show."""


def set_title(text: str) -> None:
    """Have ``ps`` show ``skunq: ...``. Never raises."""
    try:
        from setproctitle import setproctitle
    except ImportError:
        _set_short(f"skunq {text.split()[-1]}" if text else "skunq")
        return
    is_ours = os.environ.setdefault(NO_ENV, "1") == "1"
    setproctitle(f"skunq: {text}")
    if is_ours:
        os.environ.pop(NO_ENV, None)


def _set_short(name: str) -> None:
    import ctypes

    with contextlib.suppress(OSError, AttributeError):  # not on Linux
        ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode()[:SHORT], 0, 0, 0)
