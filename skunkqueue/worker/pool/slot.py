"""One slot of a pool: the runs handed to its worker, their deadlines, and how the worker ended."""

from __future__ import annotations

import contextlib
import math
import os
import select
from collections import deque
from collections.abc import Iterator
from copy import copy
from typing import Final

from skunkqueue.clock import ticks
from skunkqueue.envelope import Claim, Seal, Want
from skunkqueue.ids import new_token
from skunkqueue.notes import Notes
from skunkqueue.policy import Unknown
from skunkqueue.routes import TURNS, address, with_priorities
from skunkqueue.worker import frames
from skunkqueue.worker.pool.lull import Lull
from skunkqueue.worker.pool.process import Process, Thread

MOST_AHEAD: Final = 512
"""Most runs that the worker of a slot has at a time, executed and handed ahead."""
MOST_BEHIND: Final = 64
"""Most runs that follow each other in one of several places of a worker, under a permit of runs at once."""
UNLADE_EVERY: Final = 1.0
"""Seconds from one time to the next that a worker gives back, for others, what it has not started and was too much."""
FEW: Final = 4
"""Up to so many runs, turns are claimed with them: each may be one run."""
LEAST_YIELD: Final = 2.0
"""Runs that a turn is asked for at least, where there is room: with one less, it is known that its key has no more."""
SOON: Final = 0.05
"""Seconds of work that are handed ahead to a worker. After twice that time, what is too much is taken back."""
MOST_BYTES: Final = 8 << 20
"""Most bytes of envelopes that the worker of a slot has at a time, estimated from the size of the last ones."""
CHUNK: Final = 1 << 16  # the memory of a read of 128 KiB and more is mapped and unmapped each time
FIRST_REST: Final = 0.01
LONGEST_REST: Final = 0.1
"""Seconds for which nothing is claimed for a slot whose worker cannot open its runs, while other slots may claim. Not
long: what it can open may lie behind a great many of those."""
MOST_STRANGE: Final = 256
"""Most runs that are claimed at a time for a slot whose worker cannot have their job, to be put back unasked."""
MOST_UNKNOWN: Final = 1000
"""Jobs that a worker cannot have, as far as that is remembered."""
ASK_AGAIN: Final = 1.0
"""Seconds after which the worker is asked again, with one run, whether it can have a job that it could not have."""
YIELDS: Final = 0.1


JobKey = tuple[str, int]
"""Identifies a job: its reference, and a hash of the function where that travels by value."""


class Held:
    """A claim that this pool holds."""

    __slots__ = (
        "alone", "attempt", "careful", "cause", "claim", "guarded", "importing", "kill_at", "name", "notes", "number",
        "seal", "since",
    )  # fmt: skip

    def __init__(self, claim: Claim, seal: Seal, notes: Notes, name: str, careful: bool, alone: bool = False) -> None:
        self.claim: Claim = claim
        self.seal: Seal = seal
        self.notes: Notes = notes
        self.name: str = name
        self.careful: bool = careful
        self.alone: bool = alone
        self.attempt: int = notes.starts + 1
        self.number: int = 0
        self.guarded: bool = False  # the worker ends rather than execute it beyond its lease
        self.since: float = 0.0  # ticks when it started, as far as known
        self.importing: bool = False  # the worker is importing its job
        self.cause: str = ""  # why it is being interrupted: timeout, cancel, lost, stop
        self.kill_at: float = 0.0  # ticks when the worker is killed, if the run has not ended by then


class Chain:
    """Runs of which one starts when the one before has ended, in a worker that could execute several at once."""

    def __init__(self) -> None:
        self.first: Held | None = None  # the one that is handed out, or about to be
        self.since: float = 0.0  # ticks since when that is so


class CannotHave:
    """A job that a worker cannot have."""

    def __init__(self, what: Unknown) -> None:
        self.what = what
        self._until = ticks() + ASK_AGAIN

    def holds(self) -> bool:
        """Whether that is so still. Once it has held for long it does not, for one run: the worker is asked again."""
        now = ticks()
        if now < self._until:
            return True
        self._until = now + ASK_AGAIN
        return False


class Slot:
    """One slot of a pool: a fixed address, and a worker (a process or thread) that may be replaced."""

    def __init__(self, name: str, label: str, queue: str, route: str, concurrency: int) -> None:
        self.name = name
        self.label = label
        self.queue = queue
        self.route = route
        self.concurrency = concurrency
        self.routes: tuple[str, ...] = (address(name), *with_priorities(route))
        self._orders = (self.routes, self.routes)  # of the routes in its wants, in turn
        self.reserved: int = 0  # runs that permits of this slot have asked for, or will
        self.turns_until: float = 0.0  # ticks until which turns are likely to come, and are asked for apart
        self.turn_yield: float = 8.0  # runs that a turn gives, about
        self._handed_at: float = 0.0  # ticks
        self._behind_at: float = 0.0  # ticks when the last run was put behind another
        self._unladen_at: float = 0.0
        self.is_filled: bool = False  # its last want got all that it asked for
        self.body: Process | Thread | None = None
        self.ready: bool = False
        self.leaving: bool = False  # the worker gets no more tickets, and ends after its current runs
        self.killed: bool = False  # the worker, by this pool: runs beside the one at fault are not to blame
        self.done = False  # the worker will not be replaced
        self.older: list[Slot] = []  # workers of this slot that a reload has replaced, while they finish their runs
        self.is_older = False  # this is one of those
        self.broken = ""  # why its worker cannot start
        self.imported: set[str] = set()  # the modules of jobs that its workers could import
        self.paused = False  # its route: nothing is claimed for it
        self.runs: int = 0
        self.held: dict[int, Held] = {}  # handed out, in order
        self.started: dict[int, Held] = {}  # those reported as started, in order; only if concurrency > 1
        self.recalled: list[Held] = []  # handed out, but the ticket was taken back until the lease is known to hold
        self.waiting: deque[Held] = deque()  # careful runs, each to be marked as started before it starts
        self.behind: dict[Chain, deque[Held]] = {}  # to be handed out when the first of their chain has ended
        self.lull: Lull = Lull()  # of claims, while one of them is to run alone
        self._was_in_lull = False
        self.marking: Held | None = None  # the one of them being marked as started in the store
        self.since: float = 0.0  # ticks when the first of its runs started; only if concurrency is 1
        self.gave_back: bool = False  # runs, since its last want: what that want claims is to come after them
        self.look_at: float = 0.0  # ticks when to claim for this slot even without a wake-up
        self.strange: int = 0  # runs that the worker could not open since the last one that it executed
        self.unknown: dict[JobKey, CannotHave] = {}  # the jobs that the worker cannot have
        self.put_back: int = 0  # runs of those in a row, which were put back unasked
        self.rest_until: float = 0.0  # ticks before which nothing is claimed for this slot, because of them
        self.start_at: float = 0.0
        self.failed_starts: int = 0
        self.leave_by: float = 0.0
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
        """How many more runs the worker could start now."""
        return self.concurrency - len(self.held)

    @property
    def each(self) -> int:
        """How many runs one of several places is to have in advance, one behind the other."""
        return max(1, min(self._ahead // self.concurrency, MOST_BEHIND))

    def want(self, most: int | None, limit: int = MOST_AHEAD) -> Want | None:
        """What to claim for this slot now. ``most``: how many more runs its worker may start before it is replaced.

        Turns of limited runs are among it, unless these are asked for apart, in the same exchange.
        """
        room = self.room(most)
        if limit == MOST_AHEAD and self.wants_turns_apart(room):
            limit = room // 2 if self.is_filled else limit
            self.gave_back = False
            return Want(self.queue, self.routes, self.name, new_token(), min(room, limit))
        limit = min(room, limit)
        if limit <= 0:
            return None
        self.gave_back = False
        self._orders = self._orders[::-1]
        return Want(self.queue, self._orders[0], self.name, new_token(), limit)

    def wants_turns_apart(self, room: int) -> bool:
        """Whether turns are asked for by ``turn_want``: each gives several runs, so that fewer are wanted than runs."""
        return room > FEW and ticks() < self.turns_until

    def turn_want(self, most: int | None) -> Want | None:
        """The turns to claim for this slot now, where these are asked for apart."""
        room = self.room(most)
        if not self.wants_turns_apart(room):
            return None
        number = math.ceil((room // 2 if self.is_filled else room) / self.turn_yield)
        return Want(self.queue, (self.route + TURNS,), self.name, new_token(), number)

    def learn_turn(self, asked: int, got: int) -> None:
        """Learn how many runs a turn gives: it was asked for so many, and gave so many."""
        if got < asked:
            self.turn_yield = max(LEAST_YIELD, 0.7 * self.turn_yield + 0.3 * got)
        elif asked > self.turn_yield / 2:
            self.turn_yield = min(1.5 * self.turn_yield, float(MOST_AHEAD))

    def take_turns(self) -> None:
        """Claim the turns of limited runs as well: every other time before other runs, so that neither waits long."""
        address, high, normal, low = self.routes
        turns = self.route + TURNS
        self._orders = (address, high, turns, normal, low), (address, high, normal, turns, low)

    def room(self, most: int | None) -> int:
        """How many runs can be handed to the worker now; 0 or less for none."""
        if not self.ready or self.leaving or self.marking or self.recalled or self.rest_until:
            return -self.reserved
        if self.paused or (self.waiting and not self._goes_on()):
            return -self.reserved
        limit = (self.concurrency if self._is_slow() or self.strange else self._ahead) - len(self.held)
        if self.put_back and not self.held:
            limit = max(limit, min(2 * self.put_back, MOST_STRANGE))
        if most is not None:
            limit = min(limit, most - len(self.held))
        return (0 if self._runs_alone else limit) - self.reserved

    def overladen_from(self) -> float:
        """Ticks from which it has more than its worker will finish soon, as runs take longer now; or infinite."""
        since = min(
            self._handed_at if len(self.held) > self._ahead else float("inf"),
            self._behind_at if self.behind and self.number_behind > self.each * len(self.behind) else float("inf"),
        )
        return float("inf") if self.leaving else max(since + 2 * SOON, self._unladen_at + UNLADE_EVERY)

    @property
    def number_behind(self) -> int:
        return sum(map(len, self.behind.values()))

    def put_behind(self, chain: Chain, held: Held) -> None:
        """Have it handed out when those before it in its chain have ended."""
        self.behind.setdefault(chain, deque()).append(held)
        self._behind_at = ticks()

    @property
    def is_for_one(self) -> bool:
        """Whether a run that is to run alone is executed, or is about to be, or waits for that."""
        if self.marking is not None and self.marking.alone:
            return True
        return self._runs_alone or any(held.alone for held in self.waiting)

    def is_overladen(self) -> bool:
        """Whether it has that now; not twice a second."""
        if ticks() < self.overladen_from():
            return False
        self._unladen_at = ticks()
        return True

    @property
    def yields(self) -> float:
        """Seconds by which it looks late for what ripens: what its worker could not open is offered to others first."""
        return YIELDS if self.strange else 0.0

    def to_mark(self) -> Held | None:
        """Take the first of the careful runs that could start now, once it is marked; None if there is none."""
        if not self.waiting or self.marking is not None or self.recalled:
            return None
        found = self._next_to_mark()
        if found is not None:
            self.waiting.remove(found)
            self.marking = found
            if found.alone:
                self.lull.over()
        return found

    def _next_to_mark(self) -> Held | None:
        """The first that has a place. One that is to run alone has one if there is no other run."""
        if not self.held:
            return self.waiting[0]
        if self.free <= 0 or self._runs_alone or self._is_in_lull():
            return None
        return next((held for held in self.waiting if not held.alone), None)

    def _goes_on(self) -> bool:
        """Whether all that waits is to run alone, later: until then the worker goes on beside it."""
        return bool(self.held) and all(held.alone for held in self.waiting) and not self._is_in_lull()

    def _is_in_lull(self) -> bool:
        """Whether nothing new is to start, so that a run can start that is to run alone."""
        return any(held.alone for held in self.waiting) and self.lull.is_on(ticks())

    def has_come_out_of_lull(self) -> bool:
        """Whether more may start since the last call."""
        before = self._was_in_lull
        self._was_in_lull = self._is_in_lull()
        return before and not self._was_in_lull

    @property
    def _runs_alone(self) -> bool:
        """Whether what it holds is one run that is to run alone."""
        return bool(self.held) and next(iter(self.held.values())).alone

    def learn(self, count: int, took: float) -> None:
        """Learn how long runs take, and from that how many to hand out in advance."""
        pace = max(took / count, 2e-6)
        self._pace = pace if not self._pace else 0.7 * self._pace + 0.3 * pace
        self.runs += count
        self.strange = self.put_back = 0
        fitting = int(SOON * self.concurrency / self._pace)
        if self._weight:
            fitting = min(fitting, int(MOST_BYTES / self._weight))
        self._ahead = max(self.concurrency, min(fitting, self._ahead * 4, MOST_AHEAD))

    def doubt_pace(self) -> None:
        """Runs take longer now: an idle worker is handed none ahead until it is known how long; nor is one of several
        places."""
        if not self.held or self.concurrency > 1:
            self._ahead = min(self._ahead, max(self.concurrency, len(self.held)))

    def learn_strange(self, job: JobKey | None, what: Unknown) -> None:
        """Learn that the worker could not open a run; ``job``: of which it can open none, if that is so.

        Then no run is handed ahead, and none is claimed before a pause that grows. Of such a job more and more are
        claimed at a time, as what the worker can have may lie behind them.
        """
        self.strange += 1
        if job in self.unknown:
            self.put_back += 1
        elif job is not None:
            if len(self.unknown) >= MOST_UNKNOWN:
                self.unknown.clear()
            self.unknown[job] = CannotHave(what)
        self.rest_until = ticks() + min(LONGEST_REST, FIRST_REST * 2.0 ** min(self.strange, 10))

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
            attempt = min(held.attempt, frames.MOST_ATTEMPTS) | (frames.GUARDED if held.guarded else 0)
            written += frames.run(number, attempt, held.claim[0][0].encode(), held.claim[0][4])
        self._number = number
        self._handed_at = ticks()
        if not busy:
            self.since = self._handed_at
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
        for at in range(sent - sent % 4, len(tickets), 4):  # the socket is full: these count as recalled
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
            self._sent = len(self._unsent)  # the worker died; that is noticed elsewhere
        if self._sent == len(self._unsent):
            self._unsent, self._sent = b"", 0
        return bool(self._unsent)

    @property
    def unsent(self) -> bool:
        return bool(self._unsent)

    @property
    def busy(self) -> bool:
        return bool(self.held or self.recalled or self.waiting or self.marking or self.behind)

    def in_hand(self) -> Iterator[Held]:
        """All claims of this slot, started or not."""
        yield from self.held.values()
        yield from self.recalled
        yield from self.waiting
        for several in self.behind.values():
            yield from several
        if self.marking is not None:
            yield self.marking

    def drop(self, keys: set[tuple[str, str]]) -> list[Held]:
        """Remove these from what is recalled, waiting, behind others or being marked as started; returns them."""

        def kept(held: Held) -> bool:
            return (held.claim.id, held.claim.token) not in keys

        behind = [held for several in self.behind.values() for held in several]
        gone = [held for held in (*self.recalled, *self.waiting, *behind) if not kept(held)]
        if not all(map(kept, behind)):
            left = {chain: deque(filter(kept, several)) for chain, several in self.behind.items()}
            self.behind = {chain: several for chain, several in left.items() if several}
        self.recalled = [held for held in self.recalled if kept(held)]
        self.waiting = deque(held for held in self.waiting if kept(held))
        if self.marking is not None and not kept(self.marking):
            gone.append(self.marking)
            self.marking = None
        return gone

    def recall(self) -> list[Held]:
        """Take back exactly the runs that the worker has not started."""
        if self.body is None:
            return []
        numbers = self.body.pipes.recall()
        return [self.held.pop(number) for number in sorted(numbers) if number in self.held]

    def take_back(self) -> list[Held]:
        """Take back all runs that the worker has not started, careful runs and those behind others too."""
        waiting, self.waiting = self.waiting, deque()
        return [*self.recall(), *waiting, *self._take_behind()]

    def _take_behind(self) -> list[Held]:
        behind, self.behind = self.behind, {}
        return [held for several in behind.values() for held in several]

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
        """The runs that the worker executes, as far as it has reported; the first to start comes first."""
        if self.concurrency == 1:
            if not self.held:
                return []
            first = next(iter(self.held.values()))
            first.since = self.since
            return [first]
        return list(self.started.values())

    def pressed(self) -> list[Held]:
        """Of the runs that the worker executes, those with a timeout and those being interrupted."""
        return [held for held in self.executing() if held.kill_at or held.seal.timeout is not None]

    def next_deadline(self) -> float:
        """Ticks of the next deadline: a timeout, a kill, a start, or the recall of runs that wait behind a long one."""
        due = [self.rest_until or float("inf"), self.leave_by if self.leave_by and not self.killed else float("inf")]
        if self.body is None and not self.done:
            due.append(self.start_at)
        for held in self.pressed():
            if held.kill_at:
                due.append(float("inf") if self.killed else held.kill_at)
            elif held.since and held.seal.timeout is not None:
                due.append(held.since + held.seal.timeout)
        if self.held and any(held.alone for held in self.waiting):
            due.append(self.lull.until(ticks()))
        return min(self.is_stuck_from, self.overladen_from(), *due)

    def _is_slow(self) -> bool:
        """Whether the runs take so long that no others should wait behind them."""
        return ticks() >= self._slow_from()

    def _slow_from(self) -> float:
        if self.concurrency == 1:
            return self.since + 2 * SOON if self.held else float("inf")
        if len(self.started) < self._places:
            return float("inf")
        return next(iter(self.started.values())).since + 2 * SOON

    @property
    def _places(self) -> int:
        """How many runs it can execute at a time, beside and with those that it has."""
        return 1 if self._runs_alone else self.concurrency

    @property
    def is_stuck_from(self) -> float:
        """Ticks from which runs that wait for others to end are taken back; infinite if there are none."""
        if self.leaving:
            return float("inf")
        waiting = len(self.held) + len(self.waiting) > self._places
        if self.concurrency > 1:  # what has started cannot be taken back
            waiting = waiting and len(self.held) + len(self.waiting) > len(self.started)
        slow_from = self._slow_from() if waiting else float("inf")
        return min([slow_from, *(chain.since + 2 * SOON for chain in self.behind)]) if self.behind else slow_from

    # ending

    def leave(self) -> list[Held]:
        """Stop handing out: the worker ends after its current runs. Returns the runs that it has not started."""
        self.leaving = True
        back = [*self.recall(), *self.recalled, *self.waiting, *self._take_behind()]
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
        back += self._take_behind()
        if self.marking is not None:
            back.append(self.marking)
        how = self.body.reap()
        self._empty()
        return how, running, back

    def retire(self) -> Slot:
        """Move the worker, and all that it holds, to a slot that ends with it; this one can have another worker."""
        older = copy(self)
        older.older, older.is_older = [], True
        self.older = [*self.older, older]
        self._empty()
        return older

    def _empty(self) -> None:
        """Forget the worker, and what it holds."""
        self.body = None
        self.waiting, self.marking, self.behind = deque(), None, {}
        self.lull, self._was_in_lull = Lull(), False  # a worker that was replaced keeps its own
        self.ready = self.leaving = self.killed = False
        self.held, self.started, self.recalled = {}, {}, []
        self.runs = 0
        self.unknown, self.put_back = {}, 0
        self.leave_by = 0.0
        self._unsent, self._sent = b"", 0
        self._splitter = frames.Splitter()
        self._ahead, self._pace = self.concurrency, 0.0
