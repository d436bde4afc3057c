"""A small HTTP server for monitors: GET and HEAD, one request a connection, and no peer can hold up the others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, urlsplit

from skunkqueue.errors import SkunkError

MOST_PEERS: Final = 64
"""Connections at a time. Another one ends the one that has been there for longest."""
MOST_HEAD: Final = 8192
"""Bytes of a request's head."""
PATIENCE: Final = 5.0
"""Seconds for a peer to send its request, and to take its answer."""


class Answer(NamedTuple):
    """What a peer is told."""

    body: bytes
    kind: str = "text/plain; charset=utf-8"
    status: HTTPStatus = HTTPStatus.OK

    @classmethod
    def text(cls, sentence: str, status: HTTPStatus = HTTPStatus.OK) -> Answer:
        return cls(f"{sentence}\n".encode("utf-8", "backslashreplace"), status=status)

    @classmethod
    def json(cls, document: Any) -> Answer:
        return cls(json.dumps(document).encode() + b"\n", "application/json")


Query = Mapping[str, str]
Page = Callable[[Query], Awaitable[Answer]]
"""Makes the answer to a request from its query."""


class Address(NamedTuple):
    """Where to listen."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``127.0.0.1:9191``, ``[::1]:9191`` or, for all interfaces, ``:9191``."""
        host, _, port = text.rpartition(":")
        return cls(host.removeprefix("[").removesuffix("]"), int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Server:
    """Serves pages by path. All its methods are for one event loop."""

    def __init__(self, pages: Mapping[str, Page]) -> None:
        self._pages = pages
        self._peers: dict[asyncio.Task[Any], None] = {}  # in the order in which they came

    async def listen(self, address: Address) -> asyncio.Server:
        """Listen; returns what to close. Raises SkunkError if that address cannot be had."""
        try:
            return await asyncio.start_server(self._met, address.host or None, address.port, limit=MOST_HEAD)
        except OSError as error:
            raise SkunkError(f"cannot listen on {address}: {error.strerror or error}") from error

    async def _met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._peers) >= MOST_PEERS:
            oldest = next(iter(self._peers))
            del self._peers[oldest]
            oldest.cancel()
        self._peers[task] = None
        try:
            with suppress(OSError, TimeoutError, asyncio.CancelledError):
                await self._talk(reader, writer)
        finally:
            self._peers.pop(task, None)
            writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return
        except asyncio.LimitOverrunError:
            head = b""
        verb, answer = await self._answer(head)
        writer.write(_written(answer, verb == "HEAD"))
        async with asyncio.timeout(PATIENCE):
            await writer.drain()
            await _taken(writer)

    async def _answer(self, head: bytes) -> tuple[str, Answer]:
        try:
            verb, target, version = head.partition(b"\r\n")[0].decode("ascii").split(" ")
            path, query = urlsplit(target).path, parse_qs(urlsplit(target).query)
        except ValueError:
            return "", Answer.text("this is no request of HTTP", HTTPStatus.BAD_REQUEST)
        if verb not in ("GET", "HEAD") or not version.startswith("HTTP/1."):
            return verb, Answer.text("only GET and HEAD are understood", HTTPStatus.METHOD_NOT_ALLOWED)
        page = self._pages.get(path)
        if page is None:
            there = "there are " + ", ".join(self._pages)
            return verb, Answer.text(there, HTTPStatus.OK if path == "/" else HTTPStatus.NOT_FOUND)
        try:
            return verb, await page({name: values[-1] for name, values in query.items()})
        except Exception as error:
            # Not its message, which may hold what is nobody's business.
            sentence = f"the answer cannot be made: {type(error).__name__}"
            return verb, Answer.text(sentence, HTTPStatus.INTERNAL_SERVER_ERROR)


async def _taken(writer: asyncio.StreamWriter) -> None:
    """Wait until the system has taken all that is written."""
    writer.transport.set_write_buffer_limits(0)
    await writer.drain()


def _written(answer: Answer, is_head: bool) -> bytes:
    head = (
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}\r\n"
        f"Content-Type: {answer.kind}\r\n"
        f"Content-Length: {len(answer.body)}\r\n"
        "Cache-Control: no-store\r\n"
        "X-Content-Type-Options: nosniff\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() if is_head else head.encode() + answer.body
