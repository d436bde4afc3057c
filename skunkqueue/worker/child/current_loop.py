"""The event loop that ``asyncio.get_event_loop()`` gives a plain function, without importing asyncio."""

from __future__ import annotations

import sys
from typing import Any


def restore_current_loop() -> None:
    """Reset the event loop of this thread to what it was before any job, if the last job has closed or removed it.

    ``asyncio.run`` removes the thread's loop too; after that, ``get_event_loop`` would fail in later jobs. A loop that
    is still open stays: what a job keeps from run to run may belong to it.
    """
    events: Any = sys.modules.get("asyncio.events")
    policy = getattr(events, "_event_loop_policy", None)
    if policy is None:  # nobody has asked for a loop yet
        return
    local = getattr(policy, "_local", None)
    if getattr(local, "_set_called", False):
        loop = getattr(local, "_loop", None)
        if loop is None or loop.is_closed():
            vars(local).clear()
