"""The event loop of a worker: uvloop where it is installed, else asyncio's own."""

from __future__ import annotations

import asyncio


def new_loop() -> asyncio.AbstractEventLoop:
    """A loop for async jobs. A uvloop that cannot be used here is as good as none: no job fails for it."""
    try:
        import uvloop

        loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    except Exception:
        return asyncio.new_event_loop()
    return loop
