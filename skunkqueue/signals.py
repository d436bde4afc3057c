"""The signals that stop a pool, and how their handlers are set and restored."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from typing import Any, Final

GENTLE_SIGNALS: Final = ("SIGHUP", "SIGABRT", "SIGQUIT", "SIGTERM")
ROUGH_SIGNALS: Final = ("SIGINT",)


def catch(handler: Callable[..., Any]) -> dict[int, Any]:
    """Have ``handler`` answer what stops a pool; gives what ``give_back`` needs. On the main thread only.

    Left alone: what C code answers (a fault handler has SIGABRT), and a hangup that is to be ignored (nohup).
    """
    caught = {}
    for name in (*GENTLE_SIGNALS, *ROUGH_SIGNALS):
        number = getattr(signal, name, None)
        if number is None or (previous := signal.getsignal(number)) is None:
            continue
        if name != "SIGHUP" or previous != signal.SIG_IGN:
            caught[number] = signal.signal(number, handler)
    return caught


def catch_continued(handler: Callable[..., Any]) -> dict[int, Any]:
    """Have ``handler`` answer that the process was stopped and goes on, beside what answers it already."""
    number = getattr(signal, "SIGCONT", None)
    if number is None or (previous := signal.getsignal(number)) is None:
        return {}

    def both(*arguments: Any) -> None:
        handler(*arguments)
        if callable(previous):
            previous(*arguments)

    return {number: signal.signal(number, both)}


def give_back(caught: Mapping[int, Any]) -> None:
    """Restore the previous signal handlers."""
    for number, handler in caught.items():
        signal.signal(number, handler)
