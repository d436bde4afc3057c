"""Keeps the main thread from ending, for the Pythons that start nothing afterwards.

Once the main thread has ended, Python 3.12.0 to 3.12.2 refuse to start threads and processes, though they wait for the
threads that run (CPython issue 113964). So there the main thread is kept in the last step of its script.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import CodeType
from typing import Any, Final

IS_NEEDED: Final = (3, 12) <= sys.version_info < (3, 12, 3)


def before_the_end(wait: Callable[[], None]) -> None:
    """Have the main thread, which calls this, call ``wait`` when its script has come to its end.

    That is after its last line, or after a ``SystemExit``. It is not called if the script ends with another exception,
    or if there is no script, as at a prompt.
    """
    if sys.version_info < (3, 12) or hasattr(sys, "ps1"):
        return
    monitoring = sys.monitoring
    free = [tool for tool in range(6) if monitoring.get_tool(tool) is None]
    if not free:
        return
    tool, script = free[-1], _outermost_code()
    events = monitoring.events

    def over() -> None:
        monitoring.set_events(tool, events.NO_EVENTS)
        monitoring.set_local_events(tool, script, events.NO_EVENTS)
        monitoring.free_tool_id(tool)
        wait()

    def returned(code: CodeType, offset: int, value: object) -> None:
        over()

    def unwound(code: CodeType, offset: int, error: BaseException) -> Any:
        if code is script and isinstance(error, SystemExit):
            over()

    monitoring.use_tool_id(tool, "skunkqueue")
    monitoring.register_callback(tool, events.PY_RETURN, returned)
    monitoring.register_callback(tool, events.PY_UNWIND, unwound)
    monitoring.set_events(tool, events.PY_UNWIND)  # there is none for one function only
    monitoring.set_local_events(tool, script, events.PY_RETURN)


def _outermost_code() -> CodeType:
    frame = inspect.currentframe()
    assert frame is not None
    while frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code
