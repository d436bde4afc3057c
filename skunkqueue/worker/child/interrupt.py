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
    """Raise an error in a thread at its next step; None, in that very thread, withdraws one that was not raised yet.

    It is withdrawn by one that is raised and caught here. ``PyThreadState_SetAsyncExc`` with NULL would leave Python
    3.11 (ceval.c, ``pending.async_exc``) believing for ever that an error waits: then every traced thread of the
    process hangs, so that neither a debugger nor coverage can be used, and every call of a function costs more.
    """
    if error is not None:
        _set_error(ident, error)
        return
    try:
        while _set_error(ident, _Withdrawn):
            pass
    except _Withdrawn:
        pass


class _Withdrawn(BaseException):
    """Takes the place of an interrupt that came too late."""


def _set_error(ident: int, error: type[BaseException]) -> bool:
    """Have it raised in the thread; False if there is no such thread."""
    import ctypes

    return bool(ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(error)))
