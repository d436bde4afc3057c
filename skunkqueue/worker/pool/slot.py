"""One slot of a pool: the runs handed to its worker, their deadlines, and how the worker ended."""

from __future__ import annotations

import contextlib
import os
import select
from collections import deque
from collections.abc import Iterator
from typing import Final

from skunkqueue.clock import ticks
from skunkqueue.envelope import Claim, Seal, Want, address, new_token, with_priorities
from skunkqueue.policy import Notes
from skunkqueue.worker import frames
from skunkqueue.worker.pool.process import Process, Thread

MOST_AHEAD: Final = 512
"""Most runs that are handed to a worker at a time."""
SOON: Final = 0.05
"""Seconds of work that are handed ahead."""
MOST_BYTES: Final = 8 << 20
"""Most bytes of envelopes that are handed to a worker at a time, estimated from the size of the last ones."""
CHUNK: Final = 1 << 20


class Held:
    """A claim that this pool holds."""

    __slots__ = ("attempt", "careful", "cause", "claim", "kill_at", "name", "notes", "number", "seal", "since")

    def __init__(self, claim: Claim, seal: Seal, notes: Notes, name: str, careful: bool) -> None:
        self.claim = claim
        self.seal = seal
        self.notes = notes
        self.name = name
        self.careful = careful
        self.attempt = notes.starts + 1
        self.number = 0
        self.since = 0.0  # ticks when it started, as far as known
        self.cause = ""  # why it is being interrupted: timeout, cancel, lost, stop
        self.kill_at = 0.0  # ticks when its worker is killed, if the run has not ended by then


class Slot:
    """One slot of a pool: a fixed address, and a process or thread that may be replaced."""

    def __init__(self, name: str, label: str, queue: str, route: str, concurrency: int) -> None:
        self.name = name
        self.label = label
        self.queue = queue
        self.route = route
        self.concurrency = concurrency
        self.routes = (address(name), *with_priorities(route))
        self.body: Process | Thread | None = None
        self.ready = False
        self.leaving = False  # it gets no more tickets, and ends after its current runs
        self.killed = False  # by this pool: runs beside the one at fault are not to blame
        self.done = False  # it will not be replaced
        self.runs = 0
        self.held: dict[int, Held] = {}  # handed out, in order
        self.started: dict[int, Held] = {}  # those it reported as started, in order; only if it runs several at a time
        self.recalled: list[Held] = []  # handed out, but the ticket was taken back until the lease is known to hold
        self.waiting: deque[Held] = deque()  # runs of careful jobs, each to run alone
        self.marking: Held | None = None  # the one of them being marked as started in the store
        self.since = 0.0  # ticks when the first of its runs started, if it runs one at a time
        self.look_at = 0.0  # ticks when to claim for it even without a wake-up
        self.start_at = 0.0
        self.failed_starts = 0
        self.leave_by = 0.0
        self._number = 0
        self._ahead = concurrency
        self._pace = 0.0
        self._weight = 0.0
        self._unsent = b""
        self._sent = 0  # bytes of it that are sent already; removing them after each write would take quadratic time
        self._splitter = frames.Splitter()

    # claiming

    @property
    def free(self) -> int:
        """How many runs it could start now."""
        return self.concurrency - len(self.held)

    def want(self, most: int | None, limit: int = MOST_AHEAD) -> Want | None:
        """What to claim for it now. ``most``: how many more runs it may start before its process is replaced."""
        limit = min(self.room(most), limit)
        return Want(self.queue, self.routes, self.name, new_token(), limit) if limit > 0 else None

    def room(self, most: int | None) -> int:
        """How many runs can be handed to it now; 0 or less for none."""
        if not self.ready or self.leaving or self.waiting or self.marking or self.recalled:
            return 0
        limit = (self.concurrency if self._is_slow() else self._ahead) - len(self.held)
        if most is not None:
            limit = min(limit, most - len(self.held))
        # A careful run is handed out alone, so it can only be the first.
        return 0 if self.held and next(iter(self.held.values())).careful else limit

    def learn(self, count: int, took: float) -> None:
        """Learn how long runs take, and from that how many to hand out in advance."""
        pace = max(took / count, 2e-6)
        self._pace = pace if not self._pace else 0.7 * self._pace + 0.3 * pace
        self.runs += count
        fitting = int(SOON * self.concurrency / self._pace)
        if self._weight:
            fitting = min(fitting, int(MOST_BYTES / self._weight))
        self._ahead = max(self.concurrency, min(fitting, self._ahead * 4, MOST_AHEAD))

    # handing out

    def hand(self, many: list[Held]) -> None:
        """Hand these to the worker, in order: frames first, then their tickets."""
        busy = bool(self.held)
        if not busy and self._number > 4_000_000_000:
            self._number = 0  # it travels as 32 bits
        first = self._number + 1
        written: list[bytes] = []
        for number, held in enumerate(many, first):
            held.number = number
            self.held[number] = held
            written += frames.run(number, held.attempt, held.claim[0][0].encode(), held.claim[0][4])
        self._number = number
        if not busy:
            self.since = ticks()
        frame = b"".join(written)
        self._weight = len(frame) / len(many)
        self._unsent = self._unsent[self._sent :] + frame if self._unsent else frame
        self._sent = 0
        self.send()
        self._ticket(frames.tickets(first, number))

    def _ticket(self, tickets: bytes) -> None:
        assert self.body is not None
        try:
            sent = self.body.pipes.tickets.send(tickets)
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            sent = 0
        for at in range(sent - sent % 4, len(tickets), 4):  # the socket is full: as if recalled at once
            held = self.held.pop(frames.TICKET.unpack_from(tickets, at)[0])
            self.recalled.append(held)

    def send(self) -> bool:
        """Write what is unsent, without waiting for a full pipe; returns whether some is left."""
        if not self._unsent or self.body is None:
            return False
        try:
            self._sent += os.write(self.body.pipes.to_worker, memoryview(self._unsent)[self._sent :])
        except BlockingIOError:
            return True
        except (BrokenPipeError, ConnectionResetError):
            self._sent = len(self._unsent)  # it died; that is noticed elsewhere
        if self._sent == len(self._unsent):
            self._unsent, self._sent = b"", 0
        return bool(self._unsent)

    @property
    def unsent(self) -> bool:
        return bool(self._unsent)

    @property
    def busy(self) -> bool:
        return bool(self.held or self.recalled or self.waiting or self.marking)

    def in_hand(self) -> Iterator[Held]:
        """All it holds, started or not."""
        yield from self.held.values()
        yield from self.recalled
        yield from self.waiting
        if self.marking is not None:
            yield self.marking

    def drop(self, keys: set[tuple[str, str]]) -> list[Held]:
        """Remove these from what is recalled or waiting; returns them."""

        def kept(held: Held) -> bool:
            return (held.claim.id, held.claim.token) not in keys

        gone = [held for held in (*self.recalled, *self.waiting) if not kept(held)]
        self.recalled = [held for held in self.recalled if kept(held)]
        self.waiting = deque(held for held in self.waiting if kept(held))
        return gone

    def recall(self) -> list[Held]:
        """Take back exactly the runs that it has not started."""
        if self.body is None:
            return []
        numbers = self.body.pipes.recall()
        return [self.held.pop(number) for number in sorted(numbers) if number in self.held]

    def start_later(self) -> None:
        """After a failed start: try again after a pause that grows."""
        self.failed_starts += 1
        self.start_at = ticks() + min(5.0, 0.1 * 2.0 ** min(self.failed_starts, 10))

    def again(self) -> None:
        """Hand out again what was recalled, if the ticket socket can take more."""
        if self.recalled and self._takes_tickets():
            back, self.recalled = self.recalled, []
            self.hand(back)

    def _takes_tickets(self) -> bool:
        assert self.body is not None
        poll = select.poll()
        poll.register(self.body.pipes.tickets, select.POLLOUT)
        return bool(poll.poll(0))

    # reading

    def read(self) -> tuple[bytes, list[int]] | None:
        """Read up to ``CHUNK`` bytes; returns data and where each whole frame in it starts, or None at the end."""
        assert self.body is not None
        try:
            data = os.read(self.body.pipes.from_worker, CHUNK)
        except BlockingIOError:
            return b"", []
        return self._splitter.join(data) if data else None

    def read_rest(self) -> tuple[bytes, list[int]]:
        """Read all that a dead worker has written; an incomplete frame at the end is dropped."""
        assert self.body is not None
        left = []
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.body.pipes.from_worker, CHUNK):
                left.append(data)
        return self._splitter.join(b"".join(left))

    def ended(self, number: int, at: float) -> Held | None:
        """Note that a run ended at that time (ticks), and that the next one has started then."""
        self.since = at
        self.started.pop(number, None)
        return self.held.pop(number, None)

    def begun(self, number: int, at: float) -> None:
        """Note that a run started at that time (ticks)."""
        held = self.held.get(number)
        if held is not None:
            held.since = at
            self.started[number] = held

    # deadlines

    def executing(self) -> list[Held]:
        """The runs that it executes, as far as it has reported; the first to start comes first."""
        if self.concurrency == 1:
            if not self.held:
                return []
            first = next(iter(self.held.values()))
            first.since = self.since
            return [first]
        return list(self.started.values())

    def pressed(self) -> list[Held]:
        """Of the runs that it executes, those with a timeout and those being interrupted."""
        return [held for held in self.executing() if held.kill_at or held.seal.timeout is not None]

    def next_deadline(self) -> float:
        """Ticks of its next deadline: a timeout, a kill, a start, or the recall of runs that wait behind a long one."""
        due = [self.leave_by if self.leave_by and not self.killed else float("inf")]
        if self.body is None and not self.done:
            due.append(self.start_at)
        for held in self.pressed():
            if held.kill_at:
                due.append(float("inf") if self.killed else held.kill_at)
            elif held.since and held.seal.timeout is not None:
                due.append(held.since + held.seal.timeout)
        return min(self.is_stuck_from, *due)

    def _is_slow(self) -> bool:
        """Whether its runs take so long that no others should wait for them."""
        return ticks() >= self._slow_from()

    def _slow_from(self) -> float:
        if self.concurrency == 1:
            return self.since + 5 * SOON if self.held else float("inf")
        if len(self.started) < self.concurrency:
            return float("inf")
        return next(iter(self.started.values())).since + 5 * SOON

    @property
    def is_stuck_from(self) -> float:
        """Ticks from which runs handed out in advance are taken back for others; infinite if there are none."""
        return self._slow_from() if len(self.held) > self.concurrency else float("inf")

    # ending

    def leave(self) -> list[Held]:
        """Stop handing out: the worker ends after its current runs. Returns what it has not started."""
        self.leaving = True
        back = [*self.recall(), *self.recalled, *self.waiting]
        self.recalled, self.waiting = [], deque()
        if self.marking is not None:
            back.append(self.marking)
            self.marking = None
        if self.body is not None:
            self.body.pipes.no_more()
        return back

    def interrupt(self, held: Held, cause: str, kill_after: float) -> None:
        """Interrupt a run; if it has not ended after ``kill_after`` seconds, the worker is killed."""
        if not held.cause:
            held.cause = cause
            held.kill_at = ticks() + kill_after
            if self.body is not None:
                self.body.interrupt(held.number)

    def clear(self) -> tuple[str, list[Held], list[Held]]:
        """After the worker died: clear the slot; returns how it died, what it ran, and what it had not started."""
        assert self.body is not None
        back = self.recall()
        running = list(self.held.values())
        back += self.recalled
        back += self.waiting
        if self.marking is not None:
            back.append(self.marking)
        self.waiting, self.marking = deque(), None
        how = self.body.reap()
        self.body = None
        self.ready = self.leaving = self.killed = False
        self.held, self.started, self.recalled = {}, {}, []
        self.runs = 0
        self.leave_by = 0.0
        self._unsent, self._sent = b"", 0
        self._splitter = frames.Splitter()
        self._ahead, self._pace = self.concurrency, 0.0
        return how, running, back
