"""Serves pages until told to stop: as the whole of a program, or beside a pool on a thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from queue import SimpleQueue

from skunkqueue.distribution import pip_install, with_extra
from skunkqueue.errors import WrongCall
from skunkqueue.metrics.http import Address, Page, Server


def check_installed() -> None:
    """Raise WrongCall if what writes the metrics is not installed."""
    if find_spec("prometheus_client") is None:
        raise WrongCall(f"metrics need prometheus-client: {pip_install(with_extra('metrics'))}")


class Serving:
    """A server with an event loop of its own. ``stop`` may be called from any thread, and by a signal handler."""

    def __init__(self, pages: Mapping[str, Page], address: Address) -> None:
        self._server = Server(pages)
        self._address = address
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None
        self._asked = False

    def run(self, listening: Callable[[Address], None]) -> None:
        """Serve until stopped; ``listening`` is told where. Raises SkunkError if nothing can listen there."""
        asyncio.run(self._run(listening))

    def stop(self) -> None:
        """End the server, at once; if it has not started, its start."""
        self._asked = True
        if self._loop is not None and self._end is not None:
            with contextlib.suppress(RuntimeError):  # it has just ended
                self._loop.call_soon_threadsafe(self._end.set)

    async def _run(self, listening: Callable[[Address], None]) -> None:
        self._end, self._loop = asyncio.Event(), asyncio.get_running_loop()
        if self._asked:
            return
        server = await self._server.listen(self._address)
        try:
            port = server.sockets[0].getsockname()[1]
            listening(self._address._replace(port=port))
            await self._end.wait()
        finally:
            server.close()


@contextlib.contextmanager
def beside(pages: Mapping[str, Page], address: Address) -> Iterator[Address]:
    """Serve on a thread, in this context; gives where. Raises SkunkError if nothing can listen there."""
    serving = Serving(pages, address)
    begun: SimpleQueue[Address | BaseException] = SimpleQueue()

    def run() -> None:
        try:
            serving.run(begun.put)
        except BaseException as error:
            begun.put(error)

    thread = threading.Thread(target=run, name="skunkqueue-metrics", daemon=True)
    thread.start()
    where = begun.get()
    if isinstance(where, BaseException):
        raise where
    try:
        yield where
    finally:
        serving.stop()
        thread.join(1)
