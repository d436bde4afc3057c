"""Interrupting a run: raising in a thread, and recognizing an interruption."""

from __future__ import annotations

from types import FrameType


def is_cancelled(error: BaseException) -> bool:
    """Whether the error is asyncio's cancellation of a task."""
    return type(error).__name__ == "CancelledError"


def is_importing(frame: FrameType | None) -> bool:
    """Whether the frame is within an import, which an interrupt would leave half done."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def raise_in_thread(ident: int, error: type[BaseException] | None) -> None:
    """Raise an error in another thread at its next step; None withdraws one that was not raised yet."""
    import ctypes

    target = ctypes.c_ulong(ident)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(target, None if error is None else ctypes.py_object(error))
