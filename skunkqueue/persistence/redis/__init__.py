"""Redis: the fast store. One script per call; all keys of a queue are in one hash slot; no SCAN; no keys left behind.

The scripts and the layout of keys are in the folder ``lua``. This package packs their arguments, and reads replies.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Final

import redis
from redis.exceptions import NoScriptError

from skunkqueue.envelope import (
    Claim,
    Envelope,
    Exchange,
    Filter,
    Order,
    Outcome,
    Record,
    State,
    Want,
    new_id,
)
from skunkqueue.errors import StoreAway, StoreError, StoreVersion, WrongCall
from skunkqueue.pauses import pause_after
from skunkqueue.persistence import REMEMBERED, WORKER_GONE, Key, Limits, Persister, RunKey, WorkKey
from skunkqueue.persistence.redis.channel import RedisChannel, open_channel
from skunkqueue.persistence.redis.connect import Link, connect
from skunkqueue.persistence.redis.mend import is_of_a_wrong_type, mend, mend_lost
from skunkqueue.persistence.redis.node import Replicas
from skunkqueue.persistence.redis.notify import RedisNotifier
from skunkqueue.persistence.redis.scripts import SCRIPTS, call, in_full
from skunkqueue.persistence.redis.url import Target, parse_url
from skunkqueue.persistence.redis.via import check_pipeline
from skunkqueue.persistence.redis.wire import (
    ALL_VALUES,
    BUNCH,
    CHUNK,
    LETTERS,
    SOON,
    STORE_KEY,
    Damaged,
    OutcomeBatch,
    as_bytes,
    base_key,
    base_of,
    chunks,
    held,
    id_of,
    is_plain,
    one_arguments,
    pairs,
    put_arguments,
    raw,
    raws,
    read_exchange,
    read_records,
    versions,
    want_arguments,
)
from skunkqueue.persistence.url import StoreConfig

default_cfg: StoreConfig = {"backend": "redis", "conn_url": "localhost:6379", "dbname": 0}

SCHEMA = 1
"""The major version of the layout; stored with each queue's name."""

PUT_RETRY = 2.5
"""Seconds for which ``put`` is retried while the server is away. A repeated put has no further effect."""

EXCHANGE: Final = SCRIPTS["exchange"].digest

_HARMLESS = frozenset(
    {"get", "open", "sources", "page", "among", "extend", "discard", "workers", "beat", "listen", "wake"}
)
"""Scripts that are repeated once after a connection was cut: a second execution changes nothing."""

_FEW = 200_000
"""Up to so many ids are fetched and sorted here. If there are more, all ids are read page by page and filtered."""

_SLICE = 5000
_REMEMBERED_IDS = 50_000
_LETTER_OF = {**{state: letter for letter, state in LETTERS.items()}, State.SCHEDULED: "l"}


STAY: Final = 3600
"""Seconds after the last heartbeat of all from which nothing is left of it on the server, if nobody purges."""

QUICK: Final = 0.05
"""An answer to the question for the server's time that took longer than so many seconds is not used."""


class RedisPersister(Persister):
    """Runs on a Redis, a Valkey, behind sentinels or on a cluster. Thread-safe; survives fork.

    Raises StoreAway, StoreRefused, StoreVersion or StoreError; no message contains a user's name or password.
    """

    is_far = True
    takes_via = "a redis.Pipeline"
    limits: Limits = Limits(body=256 << 20, value=256 << 20, batch=512 << 20)
    """Redis takes strings of 512 MB, and closes a connection that sends a command of 1 GB."""
    wakes_one = True
    ids_per_queue = True  # each queue is in a hash slot of its own, which may be on another server

    def __init__(self, target: Target) -> None:
        self.url: str = target.url
        self.target = target
        self._link: Link = connect(target)
        self._replicas = Replicas(target.replicas, target.replicas_timeout) if target.replicas else None
        self._known: set[str] = set()
        self._used: set[str] = set()
        self._queue_of: dict[str, str] = {}
        self._notifier = RedisNotifier(self._link, self._places)
        self._checked = False
        self._measured = False
        self._ahead = 0.0  # what the server's clock was ahead of ours when last measured

    def __repr__(self) -> str:
        return f"RedisPersister({self.url!r})"

    # the path of a job

    def put(self, envelopes: Sequence[Envelope], *, via: Any = None) -> list[str]:
        """Store runs. ``via`` is a ``redis.Pipeline`` of yours with ``transaction=True``: the runs are then put when
        you execute it, together with your own commands or not at all; a unique key cannot be asked for then.
        """
        if via is not None:
            return self._put_via(envelopes, via)
        ids = [envelope.id for envelope in envelopes]
        if len(ids) == 1 and is_plain(envelopes[0]):
            _patiently(lambda: self._put_one(envelopes[0]))
            return ids
        for queue, places in _by_queue(envelopes).items():
            for chunk in chunks(envelopes, places):
                _patiently(partial(self._put_chunk, queue, envelopes, chunk, ids))
        return ids

    def _put_one(self, envelope: Envelope) -> None:
        queue = envelope.queue
        self._know(queue)
        if self._run("put_one", base_key(queue), one_arguments(envelope), self._replicas):
            self._know(queue, anew=True)
        self._remember(queue, (envelope.id,))

    def _put_chunk(self, queue: str, envelopes: Sequence[Envelope], places: Sequence[int], ids: list[str]) -> None:
        self._know(queue)
        key, puts = base_key(queue), put_arguments(envelopes, places)
        was_empty = 0
        for args, _ in puts.alike:
            was_empty += self._run("put", key, args, self._replicas)
        args, each = puts.each
        if each:
            was, *found = self._run("put_each", key, args, self._replicas)
            was_empty += was
            for i, id in zip(each, found, strict=True):
                ids[i] = id.decode()
        if was_empty:  # a purge of the empty queue may have deleted its name
            self._know(queue, anew=True)
        self._remember(queue, [ids[i] for i in places])

    def _put_via(self, envelopes: Sequence[Envelope], via: Any) -> list[str]:
        check_pipeline(via, self.target)
        if any(envelope.unique is not None for envelope in envelopes):
            raise WrongCall("a run with a unique key cannot be fired through a pipeline: its id is not known before")
        for queue, places in _by_queue(envelopes).items():
            self._know(queue, anew=True)
            self._remember(queue, [envelopes[i].id for i in places])
            puts = put_arguments(envelopes, places)
            # The whole text: in a transaction, an EVALSHA of an unknown script fails, and the other commands are done.
            for args, _ in puts.alike:
                via.execute_command(*in_full("put", base_key(queue), *args))
            if puts.each[1]:
                via.execute_command(*in_full("put_each", base_key(queue), *puts.each[0]))
        return [envelope.id for envelope in envelopes]

    def claim(self, wants: Sequence[Want], *, now: float, until: float) -> list[Claim]:
        return self.exchange((), wants, now=now, until=until).claims

    def extend(self, claims: Sequence[Claim], *, until: float) -> set[str]:
        still: set[str] = set()
        by_queue: dict[str, list[Any]] = {}
        for claim in claims:
            args = by_queue.setdefault(claim.envelope.queue, [])
            args += (raw(claim.id), held(claim.token), claim.envelope.route)
        for queue, args in by_queue.items():
            for at in range(0, len(args), 3 * CHUNK):
                chunk = [repr(until), *args[at : at + 3 * CHUNK]]
                still.update(id_of(id) for id in self._run("extend", base_key(queue), chunk))
        return still

    def commit(self, outcomes: Sequence[tuple[Claim, Outcome]], *, now: float) -> set[str]:
        return self.exchange(outcomes, (), now=now, until=now).taken

    def exchange(
        self, outcomes: Sequence[tuple[Claim, Outcome]], wants: Sequence[Want], *, now: float, until: float
    ) -> Exchange:
        given = OutcomeBatch(outcomes, now)
        if given.later:  # two outcomes of one run: the second is applied after the first
            taken = self.commit(given.first, now=now)
            rest = self.exchange(given.later, wants, now=now, until=until)
            return rest._replace(taken=taken | rest.taken)
        taken, claims, ripe = given.ids, list[Claim](), list[float]()
        queues = given.queues().union(want.queue for want in wants)
        self._used |= queues
        for queue in queues:
            asked = [want for want in wants if want.queue == queue]
            args = [repr(now), repr(until), repr(now + SOON), *given.arguments(queue)]
            refused, got, next_ripe, _ = self._exchange(base_key(queue), args, asked, until)
            taken -= refused
            claims += got
            if next_ripe is not None:
                ripe.append(next_ripe)
            if got and len(got) >= sum(want.limit for want in asked):
                self._notifier.release(queue)
        if len(queues) > 1:
            order = {want.token: n for n, want in enumerate(wants)}
            claims.sort(key=lambda claim: order[claim.token])
        return Exchange(taken, claims, min(ripe, default=None))

    def _exchange(
        self, key: str, args: Sequence[Any], wants: Sequence[Want], until: float
    ) -> tuple[set[str], list[Claim], float | None, float]:
        """Exchange; if the connection was cut, once more with wants marked as repeated, which return what they claimed.

        The same if a run cannot be read: the script handles repeated wants run by run, and repairs it.
        """
        try:
            return read_exchange(wants, self._run("exchange", key, [*args, *want_arguments(wants)]), until)
        except Damaged:
            pass
        except StoreAway as error:
            if not _was_cut(error):
                raise
        again = [want._replace(repeated=True) for want in wants]
        return read_exchange(again, self._run("exchange", key, [*args, *want_arguments(again)]), until)

    # the desk

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
        """Pages of ids that may match: of all runs, newest first, or only of those in that state, if they are few."""
        if not route and not letter:
            return self._pages(queue, after)
        reply = self._run("sources", base_key(queue), [route, letter.replace("l", "q")])
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

    # the workers

    def beat(self, worker: str, about: str, *, seen: Sequence[str] = (), until: float) -> list[Order]:
        good_for = math.ceil(max(0.0, until - time.time() - self._ahead)) + STAY
        left = self._run("beat", STORE_KEY, [worker, repr(until), about, good_for, self._notifier.home(worker), *seen])
        texts = [order.decode(errors="replace").partition(" ") for order in left]
        return [Order(id, text) for id, _, text in texts]

    def tell(self, worker: str, order: str) -> None:
        queue = self._run("tell", STORE_KEY, [worker, f"{new_id(time.time())} {order}"]).decode()
        self._run("wake", base_key(queue) if queue else STORE_KEY, [worker])

    def workers(self, *, now: float) -> dict[str, str]:
        reply = self._run("workers", STORE_KEY, [repr(now)])
        about = zip(reply[::2], reply[1::2], strict=True)
        return {
            name.decode(): (said or b"").decode(errors="replace") for name, said in about if name and name.isascii()
        }

    # housekeeping

    def purge(self, *, now: float, limit: int = 1000) -> int:
        done = 0
        named = self._queues()
        addressees: dict[str, list[str]] = {}
        for queue in {**dict.fromkeys(named), **dict.fromkeys(list(self._used))}:
            did, is_empty, addressees[queue] = self._purge_queue(queue, now, limit - done)
            done += did
            if is_empty:
                self._forget(queue)
            elif queue not in named:  # its name was deleted while a new run came
                self._know(queue, anew=True)
        done += int(self._run("dismiss", STORE_KEY, [repr(now), limit - done])[0])
        for queue, workers in addressees.items():
            if workers:
                done += self._purge_addressed(queue, workers, now, limit - done)
        return done

    def _purge_queue(self, queue: str, now: float, limit: int) -> tuple[int, bool, list[str]]:
        """Purge one queue; returns how much was done, if it is now empty, and the workers that open runs name."""
        done = 0
        while True:
            step = min(limit - done, BUNCH)
            did, is_empty, workers, left, lost = self._run("purge", base_key(queue), [repr(now), step])
            if lost:
                mend_lost(
                    base_key(queue), self._ask, lambda name, args: self._run(name, base_key(queue), args), lost.decode()
                )
            done += did
            if (did < step and not left) or done >= limit:
                return done, bool(is_empty), [worker.decode() for worker in workers]

    def _purge_addressed(self, queue: str, workers: Sequence[str], now: float, limit: int) -> int:
        """End open runs that are addressed to workers that are gone."""
        done = 0
        gone = set(workers).difference(self.workers(now=now))
        while gone and done < limit:
            step = min(limit - done, BUNCH)
            found = pairs(self._run("addressed", base_key(queue), [repr(now), step, *gone]))
            gone.difference_update(self.workers(now=now))  # again: a worker that appeared meanwhile keeps its runs
            ids = [id for worker, id in found if worker in gone]
            replies = self._in_parts("cancel", queue, [repr(now), WORKER_GONE, repr(now)], ids)
            did = sum(map(len, replies)) // 5
            done += did
            if did < step:
                break
        return done

    def wait(self, keys: Sequence[Key], timeout: float) -> None:
        try:
            self._notifier.wait(keys, timeout)
        except StoreError as error:
            if not is_of_a_wrong_type(error):
                raise
            for key in {base_key(key.queue) for key in keys if isinstance(key, WorkKey)} or map(base_key, self._used):
                self._mend(key)

    def rouse(self, keys: Sequence[Key]) -> bool:
        self._notifier.rouse(keys)
        return True

    def channel(self, queue: str) -> RedisChannel | None:
        self._check()
        self._used.add(queue)
        return open_channel(self._link, self._notifier, queue)

    def offset(self) -> float | None:
        """The server's clock minus ours, most exact after a short round trip: the first call takes the best of three.

        Later calls measure once, and return None if the answer took longer than ``QUICK``.
        """
        if not self._measured:
            self._measured = True
            return min(self._measure() for _ in range(3))[1]
        took, offset = self._measure()
        return offset if took < QUICK else None

    def _measure(self) -> tuple[float, float]:
        start = time.time()
        began = time.monotonic()
        seconds, micros = self._ask(STORE_KEY, ("TIME",))
        took = time.monotonic() - began
        self._ahead = int(seconds) + int(micros) / 1e6 - (start + took / 2)
        return took, self._ahead

    def warnings(self) -> list[str]:
        """What the operator should know about this server, as sentences; empty if its configuration may not be read."""
        try:
            policy, aof, save = (self._config(name) for name in ("maxmemory-policy", "appendonly", "save"))
        except StoreAway:
            raise
        except StoreError:
            return []
        return [text for text in (_about_policy(policy), _about_durability(aof, save)) if text]

    def _config(self, name: str) -> str:
        reply = self._ask(STORE_KEY, ("CONFIG", "GET", name))
        return str(reply[1].decode()) if reply else ""

    def close(self) -> None:
        self._notifier.close()
        self._link.close()
        self._checked = False

    # speaking

    def _run(self, name: str, key: str, args: Sequence[Any], replicas: Replicas | None = None) -> Any:
        try:
            return self._evaluate(name, key, args, replicas)
        except StoreAway as error:
            if name not in _HARMLESS or not _was_cut(error):
                raise
        return self._evaluate(name, key, args, replicas)

    def _evaluate(self, name: str, key: str, args: Sequence[Any], replicas: Replicas | None = None) -> Any:
        try:
            return self._ask(key, call(name, key, *args), replicas)
        except StoreError as error:
            if not isinstance(error.__cause__, NoScriptError):
                raise
        return self._ask(key, in_full(name, key, *args), replicas)

    def _ask(self, key: str, command: tuple[Any, ...], replicas: Replicas | None = None) -> Any:
        """The reply to a command. With ``replicas``, raises StoreAway if too few have what it wrote."""
        if not self._checked:
            self._check()
        try:
            return self._say(key, command, replicas)
        except StoreError as error:
            if not is_of_a_wrong_type(error) or not self._mend(key):
                raise
            if command[1] == EXCHANGE:
                raise Damaged(str(error)) from error
        return self._say(key, command, replicas)

    def _mend(self, key: str) -> bool:
        """After a key held another kind of value; returns whether there was one. See ``mend``."""
        return mend(key, self._link.ask, partial(self._run, "restore", key))

    def _say(self, key: str, command: tuple[Any, ...], replicas: Replicas | None) -> Any:
        if replicas is None:
            return self._link.ask(key, command)
        reply, reached = self._link.ask(key, command, None, replicas)
        replicas.check(self.url, reached)
        return reply

    def _check(self) -> None:
        """Check the version before the first command. Raises StoreVersion."""
        self._checked = True
        try:
            self._queues()
        except BaseException:
            self._checked = False
            raise

    def _queues(self) -> list[str]:
        """The names of all queues. Raises StoreVersion if a newer major version has written one."""
        reply = self._ask(STORE_KEY, ("HGETALL", STORE_KEY + ":queues"))
        queues = versions(reply)
        for queue, version in queues.items():
            if version > SCHEMA:
                raise StoreVersion(
                    f"queue {queue!r} in Redis at {self.url} was written by version {version} of the layout; this is "
                    f"version {SCHEMA}: install a newer SkunkQueue here"
                )
        return list(queues)

    def _know(self, queue: str, *, anew: bool = False) -> None:
        """Store the queue's name, so that look-ups by id, and purges, find the queue."""
        if anew or queue not in self._known:
            # A replica that has the run has the name as well, unless they are on different servers.
            replicas = self._replicas if self.target.kind == "cluster" else None
            self._ask(STORE_KEY, ("HSETNX", STORE_KEY + ":queues", queue, SCHEMA), replicas)
            self._known.add(queue)

    def _forget(self, queue: str) -> None:
        """Delete the name of an empty queue; store it again if a run came meanwhile."""
        self._ask(STORE_KEY, ("HDEL", STORE_KEY + ":queues", queue))
        if self._ask(base_key(queue), ("EXISTS", base_key(queue) + ":run")):
            self._know(queue, anew=True)

    def _remember(self, queue: str, ids: Iterable[str]) -> None:
        self._bound_memory()
        self._queue_of.update(dict.fromkeys(ids, queue))

    def _bound_memory(self) -> None:
        if len(self._queue_of) > _REMEMBERED_IDS:
            self._queue_of.clear()


def _patiently(put: Callable[[], None]) -> None:
    """Put; retry for up to ``PUT_RETRY`` seconds while the server is away."""
    end = time.monotonic() + PUT_RETRY
    failures = 0
    while True:
        try:
            return put()
        except StoreAway:
            failures += 1
            delay = pause_after(failures)
            if time.monotonic() + delay >= end:
                raise
            time.sleep(delay)


def _was_cut(error: StoreAway) -> bool:
    """Whether the connection broke. A timeout does not count: a server that hangs is not asked twice."""
    return isinstance(error.__cause__, redis.ConnectionError) and not isinstance(error.__cause__, redis.TimeoutError)


def _by_queue(envelopes: Sequence[Envelope]) -> dict[str, Sequence[int]]:
    """The positions of the runs of each queue."""
    first = envelopes[0].queue if envelopes else ""
    if all(envelope.queue == first for envelope in envelopes):
        return {first: range(len(envelopes))} if envelopes else {}
    places: dict[str, list[int]] = {}
    for i, envelope in enumerate(envelopes):
        places.setdefault(envelope.queue, []).append(i)
    return dict(places)


def open_url(url: str) -> RedisPersister:
    """The store at a redis://, rediss://, redis+unix://, redis+sentinel:// or redis+cluster:// URL.

    Nothing is opened yet. Raises WrongCall for an invalid URL or parameter.
    """
    return RedisPersister(parse_url(url))


def _about_policy(policy: str) -> str:
    if policy in ("", "noeviction"):
        return ""
    return (
        f"Redis may delete runs when it is full (maxmemory-policy {policy}): set it to noeviction, "
        "so that firing is refused instead"
    )


def _about_durability(aof: str, save: str) -> str:
    if aof == "yes":
        return ""
    if save:
        return (
            "Redis writes only snapshots to disk: runs accepted since the last one are lost if it dies; "
            "set appendonly yes"
        )
    return "Redis keeps nothing on disk: every run is lost if it stops; set appendonly yes"
