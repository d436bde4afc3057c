"""Redis: the fast store. One script per call; all keys of a queue are in one hash slot; no SCAN; no keys left behind.

The scripts and the layout of keys are in the folder ``lua``. This package packs their arguments, and reads replies.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from skunkqueue.envelope import Claim, Envelope, Exchange, Order, Outcome, Want
from skunkqueue.errors import StoreAway, StoreError, WrongCall
from skunkqueue.ids import new_id
from skunkqueue.pauses import pause_after
from skunkqueue.persistence import WORKER_GONE, Key, Limits, Persister, WorkKey
from skunkqueue.persistence.redis.calls import was_cut
from skunkqueue.persistence.redis.channel import RedisChannel, open_channel
from skunkqueue.persistence.redis.desk import Desk
from skunkqueue.persistence.redis.mend import is_of_a_wrong_type, mend_lost
from skunkqueue.persistence.redis.scripts import in_full
from skunkqueue.persistence.redis.url import Target, parse_url
from skunkqueue.persistence.redis.via import check_pipeline
from skunkqueue.persistence.redis.wire import (
    BUNCH,
    CHUNK,
    SOON,
    STORE_KEY,
    Damaged,
    OutcomeBatch,
    base_key,
    chunks,
    held,
    id_of,
    is_plain,
    one_arguments,
    pairs,
    put_arguments,
    raw,
    read_exchange,
    want_arguments,
)
from skunkqueue.persistence.url import StoreConfig

default_cfg: StoreConfig = {"backend": "redis", "conn_url": "localhost:6379", "dbname": 0}

PUT_RETRY = 2.5
"""Seconds for which ``put`` is retried while the server is away. A repeated put has no further effect."""

STAY: Final = 3600
"""Seconds after the last heartbeat of all from which nothing is left of it on the server, if nobody purges."""

QUICK: Final = 0.05
"""An answer to the question for the server's time that took longer than so many seconds is not used."""


class RedisPersister(Desk, Persister):
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
        super().__init__(target)
        self._used: set[str] = set()
        self._looked_to: dict[str, bytes] = {}  # by queue, up to where its counts were compared with what is there
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
            if not was_cut(error):
                raise
        again = [want._replace(repeated=True) for want in wants]
        return read_exchange(again, self._run("exchange", key, [*args, *want_arguments(again)]), until)

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
                self._looked_to.pop(queue, None)
            elif queue not in named:  # its name was deleted while a new run came
                self._know(queue, anew=True)
        dismissed = self._run("dismiss", STORE_KEY, [repr(now), limit - done])
        done += len(dismissed)
        gone = [name.decode() for name in dismissed if name.isascii()]
        for queue, workers in addressees.items():
            if workers or gone:
                done += self._purge_addressed(queue, [*workers, *gone], now, limit - done)
        return done

    def _purge_queue(self, queue: str, now: float, limit: int) -> tuple[int, bool, list[str]]:
        """Purge one queue; returns how much was done, if it is now empty, and the workers that open runs name."""
        done = 0
        while True:
            step = min(limit - done, BUNCH)
            args = [repr(now), step, self._looked_to.get(queue, b"0")]
            did, is_empty, workers, left, lost, self._looked_to[queue] = self._run("purge", base_key(queue), args)
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
