"""Stopping a run from outside: what interrupts a thread, and what an interruption looks like."""

from __future__ import annotations

from types import FrameType


def is_cancelled(error: BaseException) -> bool:
    """Whether it is asyncio's way of stopping a task."""
    return type(error).__name__ == "CancelledError"


def is_importing(frame: FrameType | None) -> bool:
    """Whether what is interrupted there is the import of a module, of which half would stay."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def raise_in_thread(ident: int, error: type[BaseException] | None) -> None:
    """Raise in another thread at its next step; None takes back what it has not met yet."""
    import ctypes

    target = ctypes.c_ulong(ident)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(target, None if error is None else ctypes.py_object(error))
