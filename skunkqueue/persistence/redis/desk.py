"""The desk of the Redis store: runs by id, or by what they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from skunkqueue.envelope import Filter, Record, State
from skunkqueue.persistence import REMEMBERED, RunKey
from skunkqueue.persistence.redis.calls import Calls
from skunkqueue.persistence.redis.notify import RedisNotifier
from skunkqueue.persistence.redis.scripts import call
from skunkqueue.persistence.redis.url import Target
from skunkqueue.persistence.redis.wire import (
    ALL_VALUES,
    CHUNK,
    LETTERS,
    as_bytes,
    base_key,
    base_of,
    id_of,
    pairs,
    raw,
    raws,
    read_records,
)

_FEW = 200_000
"""Up to so many ids are fetched and sorted here. If there are more, all ids are read page by page and filtered."""

_SLICE = 5000
_LETTER_OF = {**{state: letter for letter, state in LETTERS.items()}, State.SCHEDULED: "l"}


class Desk(Calls):
    """Inspects and changes runs. Where nothing tells the queue of an id, all queues are asked."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._notifier = RedisNotifier(self._link, self._places)

    def cancel(self, ids: Iterable[str], *, now: float) -> list[Record]:
        found = self._by_queue("cancel", sorted(set(ids)), [repr(now), "", ""])
        return sorted((record for queue, reply in found for record in read_records(queue, reply)), key=lambda r: r.id)

    def reopen(self, ids: Iterable[str], *, now: float) -> set[str]:
        found = self._by_queue("reopen", sorted(set(ids)), [repr(now)])
        return {id_of(id) for _, reply in found for id in reply}

    def promote(self, ids: Iterable[str], *, now: float) -> set[str]:
        found = self._by_queue("promote", sorted(set(ids)), [repr(now)])
        return {id_of(id) for _, reply in found for id in reply}

    def discard(self, ids: Iterable[str], *, now: float) -> set[str]:
        found = self._by_queue("discard", sorted(set(ids)), [repr(now), repr(REMEMBERED)])
        return {id_of(id) for _, reply in found for id in reply}

    def get(self, ids: Iterable[str]) -> dict[str, Record]:
        return self._get(ids, "")

    def get_brief(self, ids: Iterable[str]) -> dict[str, Record]:
        return self._get(ids, ALL_VALUES)

    def _get(self, ids: Iterable[str], values: str) -> dict[str, Record]:
        wanted = list(dict.fromkeys(ids))
        found = {
            record.id: record
            for queue, reply in self._by_queue("get", wanted, ["", values])
            for record in read_records(queue, reply)
        }
        self._bound_memory()
        self._queue_of.update((record.id, record.envelope.queue) for record in found.values() if record.open)
        return {id: found[id] for id in wanted if id in found}

    def open_of(self, ids: Iterable[str]) -> dict[str, float]:
        found: dict[str, float] = {}
        self._bound_memory()
        for queue, some in self._places_of(list(dict.fromkeys(ids))).items():
            for at in range(0, len(some), CHUNK):
                open_ids = pairs(self._run("open", base_key(queue), raws(some[at : at + CHUNK])))
                found.update((id, float(expires or "inf")) for id, expires in open_ids)
                self._queue_of.update((id, queue) for id, _ in open_ids)
        return found

    def _places(self, ids: Sequence[str]) -> dict[str, list[str]] | None:
        """The open runs by queue; None if one does not exist, or has ended."""
        if any(id not in self._queue_of for id in ids):
            self.open_of(ids)
        places: dict[str, list[str]] = {}
        for id in ids:
            queue = self._queue_of.get(id)
            if queue is None:
                return None
            places.setdefault(queue, []).append(id)
        return places

    def await_end(self, id: str, timeout: float) -> Record | None:
        """The query is sent right behind the block, so that the server answers as soon as the block ends."""

        queue = ""

        def command() -> tuple[Any, ...]:
            nonlocal queue
            queue = self._queue_of.get(id, "")
            return () if not queue else call("get", base_key(queue), "1", ALL_VALUES, raw(id))

        reply = self._notifier.wait([RunKey(id)], timeout, command) if timeout > 0 else None
        if not reply:  # it waited for nothing: the run is unknown, or has ended
            found = [(queue, reply) for queue, reply in self._by_queue("get", [id], ["1", ALL_VALUES]) if reply]
            return read_records(*found[0])[0] if found else None
        return read_records(queue, reply[1:])[0] if len(reply) > 1 else None

    def _by_queue(self, name: str, ids: Sequence[str], args: Sequence[Any]) -> Iterator[tuple[str, Any]]:
        """Run a script on the queues that the ids are in; for ids of unknown queues, on all queues.

        The script reads no more than so much at a time, and tells how many ids it looked at.
        """
        for queue, some in self._places_of(ids).items():
            for reply in self._in_parts(name, queue, args, some):
                yield queue, reply

    def _in_parts(self, name: str, queue: str, args: Sequence[Any], ids: Sequence[str]) -> Iterator[list[Any]]:
        at = 0
        while at < len(ids):
            looked, *reply = self._run(name, base_key(queue), [*args, *raws(ids[at : at + CHUNK])])
            yield reply
            at += looked

    def _places_of(self, ids: Sequence[str]) -> dict[str, list[str]]:
        """The ids by queue; those of which it is not known are on each."""
        by_queue: dict[str, list[str]] = {}
        unknown: list[str] = []
        for id in ids:
            queue = self._queue_of.get(id)
            (unknown if queue is None else by_queue.setdefault(queue, [])).append(id)
        if unknown:
            for queue in self._queues():
                by_queue.setdefault(queue, []).extend(unknown)
        return by_queue

    def find(self, which: Filter, *, now: float, after: str | None = None, limit: int = 100) -> list[Record]:
        return self._find(which, now, after, limit, "")

    def find_brief(
        self, which: Filter, *, now: float, after: str | None = None, limit: int = 100, values: int | None = None
    ) -> list[Record]:
        return self._find(which, now, after, limit, ALL_VALUES if values is None else str(values))

    def _find(self, which: Filter, now: float, after: str | None, limit: int, values: str) -> list[Record]:
        queues = self._queues() if which.queue is None else [which.queue]
        filters = [repr(now), which.route or "", _LETTER_OF[which.state] if which.state else "", values]
        found = [record for queue in queues for record in self._find_on(queue, filters, after, limit)]
        return sorted(found, key=lambda record: record.id, reverse=True)[:limit]

    def _find_on(self, queue: str, filters: Sequence[str], after: str | None, limit: int) -> list[Record]:
        found: list[Record] = []
        for page in self._candidates(queue, filters[1], filters[2], after):
            ids = sorted((id for id in set(page) if after is None or id < as_bytes(after)), reverse=True)
            at = 0
            while at < len(ids):
                args = [limit - len(found), *filters, *ids[at : at + CHUNK]]
                looked, *reply = self._run("among", base_key(queue), args)
                found += read_records(queue, reply)
                if len(found) >= limit:
                    return found
                at += looked
        return found

    def _candidates(self, queue: str, route: str, letter: str, after: str | None) -> Iterator[list[bytes]]:
        """Pages of ids that may match: of all runs, newest first, or only of those in that state, if they are few.

        Also of all runs where those in that state are in many keys.
        """
        if not route and not letter:
            return self._pages(queue, after)
        reply = self._run("sources", base_key(queue), [route, letter.replace("l", "q")])
        if reply is None:
            return self._pages(queue, after)
        sources = [(key.decode(), size) for key, size in zip(reply[::2], reply[1::2], strict=True)]
        if sum(size for _, size in sources) > _FEW:
            return self._pages(queue, after)
        return iter([[id for key, size in sources for id in self._members(key, size)]])

    def _members(self, key: str, size: int) -> Iterator[bytes]:
        """The ids in a key, in slices so small that other clients do not wait for them."""
        if key.endswith(":claims"):
            yield from self._ask(base_of(key), ("HKEYS", key))
            return
        for at in range(0, size, _SLICE):
            yield from self._ask(base_of(key), ("ZRANGE", key, at, at + _SLICE - 1))

    def _pages(self, queue: str, after: str | None) -> Iterator[list[bytes]]:
        """All ids of a queue before one, newest first by pages; a page's ids are in no order."""
        at = as_bytes(after or "")
        while (page := self._run("page", base_key(queue), [at])) is not None:
            at, ids = page
            yield [id for id in ids.split(b"\n") if id]
            if not at:  # no page has this name, unless the list of pages is damaged
                return

    def count(self) -> dict[tuple[str, str, str], int]:
        counts: dict[tuple[str, str, str], int] = {}
        for queue in self._queues():
            reply = self._ask(base_key(queue), ("HGETALL", base_key(queue) + ":count"))
            for name, number in zip(reply[::2], reply[1::2], strict=True):
                text = name.decode(errors="replace")
                if text[:1] in LETTERS and number.isdigit():  # else it is damaged
                    counts[queue, text[1:], str(LETTERS[text[0]])] = int(number)
        return counts
