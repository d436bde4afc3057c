"""The event loop of a worker: uvloop where it is installed, else asyncio's own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def new_loop() -> asyncio.AbstractEventLoop:
    """A loop for async jobs. If uvloop cannot be used here, asyncio's is used; no job fails for that."""
    try:
        import uvloop

        loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    except Exception:
        return asyncio.new_event_loop()
    return loop


class Loop:
    """The loop that a worker runs its async jobs on, made when it is first needed.

    It is never the current loop of the thread. A plain function that calls ``asyncio.get_event_loop()`` gets another
    loop, and may close that. If a job closes this one nevertheless, the next job gets a new one.
    """

    def __init__(self) -> None:
        self._runner = asyncio.Runner(loop_factory=new_loop)

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run the coroutine to its end, even if the job stops the loop or one of its own tasks raises SystemExit."""
        loop = self._open()
        if asyncio._get_running_loop() is not None:
            main.close()
            raise RuntimeError("async jobs cannot run here: a job has left a loop running on this thread")
        task = loop.create_task(main)
        while True:
            try:
                return loop.run_until_complete(task)
            except KeyboardInterrupt:  # not in a worker process, which does not see Ctrl-C
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    loop.run_until_complete(task)
                raise
            except BaseException:
                if task.done():
                    return task.result()
                if loop.is_closed():
                    raise

    def _open(self) -> asyncio.AbstractEventLoop:
        loop = self._runner.get_loop()
        if loop.is_closed():
            self._runner = asyncio.Runner(loop_factory=new_loop)
            loop = self._runner.get_loop()
        return loop

    def close(self) -> None:
        """Cancel the tasks that jobs have left, and close the loop."""
        if not self._runner.get_loop().is_closed():
            self._runner.close()
