"""The event loop of a worker: uvloop where it is installed, else asyncio's own."""

from __future__ import annotations

import asyncio


def new_loop() -> asyncio.AbstractEventLoop:
    """A loop for async jobs. If uvloop cannot be used here, asyncio's is used; no job fails for that."""
    try:
        import uvloop

        loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    except Exception:
        return asyncio.new_event_loop()
    return loop
