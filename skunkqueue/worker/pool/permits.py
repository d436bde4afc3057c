"""Keeps the permits that a pool holds, asks for the runs of their keys, and gives the permits back.

The life of a permit in a pool, all on the engine's thread but for the errands, which go to the store::

    is taken     a slot claims it among other work: ``took``
    asks         for runs of its key, with the next exchange: ``wants``; with a rate, it notes first how many may start
    is answered  the runs are handed to the slot, and it waits until they have ended: ``answered``, ``ended``
    goes on      where its turn is not over and its key has more: it asks again
    goes back    ripe now, behind the permits of other keys; with a rate, ripe when the next run may start
    is let go    where its key has nothing more: ``looking.let_go``

A permit of a limit of runs at once is kept until its runs have ended. Any other is given back as soon as it has got
what it asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from math import inf
from typing import Final

from skunkqueue.clock import Clock, ticks
from skunkqueue.envelope import Claim, Outcome, Want
from skunkqueue.errors import PayloadError
from skunkqueue.ids import new_token
from skunkqueue.limits.credit import Credit, credit_of
from skunkqueue.limits.limit import Terms
from skunkqueue.limits.looking import HeldTurn
from skunkqueue.limits.turns import LimitKey, Turn, key_of, read, terms_of
from skunkqueue.persistence import Source
from skunkqueue.routes import keyed_routes
from skunkqueue.worker.pool.completer import Completer
from skunkqueue.worker.pool.exchanger import Delivery
from skunkqueue.worker.pool.lookout import Lookout
from skunkqueue.worker.pool.process import Process, Thread
from skunkqueue.worker.pool.settings import Settings
from skunkqueue.worker.pool.slot import Chain, Held, Slot

TURN: Final = 0.1
"""Seconds after which a permit goes back, to let other keys and other pools have their turn."""
SLOW: Final = 0.05
"""Seconds after which a permit that bounds nothing does not wait for its runs, and one that cannot ask goes back."""
RESTS: Final = 1.0
"""Seconds for which a permit with a rate is kept until the next run may start, at most."""
POLL: Final = 1.0
"""Seconds. Most time until a permit with a rate looks whether it has been idle for long enough to be let go."""
OTHERS: Final = 0.05
"""Seconds for which a permit is left to others whose key the slot has already."""
APART: Final = 1.0
"""Seconds after a turn for which a slot asks for turns apart from other work."""
AGAIN: Final = 0.1
"""Seconds between two looks whether a key of which several runs were claimed at once has more."""
FULL: Final = 0.5
"""Seconds for which no further permit of a key is put that has all there may be: each looks once more as it leaves."""
MOST_KEYS: Final = 10_000

Mark = tuple[str, str]
"""Identifies a claim: its run's id, and its token."""


class Permit:
    """A permit that this pool holds, for one slot."""

    __slots__ = (
        "asked", "chain", "claim", "credit", "fresh_at", "is_dry", "is_lost", "reserves", "runs", "since", "slot",
        "turn", "worker",
    )  # fmt: skip

    def __init__(self, slot: Slot, claim: Claim, turn: Turn) -> None:
        self.slot: Slot = slot
        self.worker: Process | Thread | None = slot.body  # none that takes its place is to execute beside it
        self.claim: Claim = claim
        self.turn: Turn = turn
        self.since: float = ticks()
        self.fresh_at: float = self.since
        self.runs: set[Mark] = set()
        self.chain: Chain = Chain()  # of its runs, where they follow each other
        self.asked: int = 0
        self.reserves: int = 0  # of the room of its slot, while it asks
        self.is_dry: bool = False
        self.is_lost: bool = False
        self.credit: Credit | None = None

    @property
    def mark(self) -> Mark:
        return self.claim.id, self.claim.token

    @property
    def is_usable(self) -> bool:
        slot = self.slot
        is_there = slot.body is self.worker and slot.ready and not slot.leaving
        return is_there and not slot.paused and not self.is_lost


class Permits:
    """``most`` gives how many runs a slot may have yet, ``look`` is called when the engine should look for work."""

    def __init__(
        self,
        source: Source,
        clock: Clock,
        settings: Settings,
        slots: Sequence[Slot],
        completer: Completer,
        run: Callable[[Callable[[], None]], None],
        look: Callable[[], None],
        most: Callable[[Slot], int | None],
    ) -> None:
        self._clock = clock
        self._settings = settings
        self._slots = slots
        self._completer = completer
        self._look = look
        self._most = most
        self._lookout = Lookout(source, clock, settings, run)
        self._has_taken = False  # any turn, without which there are no runs with limits here
        self._held: dict[Mark, Permit] = {}
        self._with_key: dict[tuple[str, LimitKey], Permit] = {}  # by the name of the slot
        self._fresh: dict[Permit, None] = {}  # those that are to ask
        self._asking: dict[str, Permit] = {}  # by the token of what they have asked for
        self._going: set[Permit] = set()  # those that may ask for more while they have runs
        self._slow: dict[Permit, float] = {}  # those that wait for their runs, with the ticks until which they do
        self._resting: dict[Permit, float] = {}  # those of a rate, with the ticks at which their next run may start
        self._letting_go: set[Permit] = set()
        self._runs: dict[Mark, Permit] = {}
        self._firsts: dict[Mark, Permit] = {}  # by the run that the worker has, where others follow it
        self.hand: Callable[[Slot, list[Held]], None] = lambda slot, many: None
        self._more_at: dict[tuple[LimitKey, Terms], float] = {}  # ticks until which they need no more permits

    @property
    def is_at_rest(self) -> bool:
        return not self._held and self._lookout.is_at_rest

    def claims(self) -> list[Claim]:
        """The claims whose leases are to be extended."""
        return [permit.claim for permit in self._held.values()]

    def until(self) -> float:
        """Ticks when there is something to do."""
        until = min(*(min(each.values(), default=inf) for each in (self._slow, self._resting)))
        until = min([until, *(permit.fresh_at + SLOW for permit in self._fresh)])
        return min(until, self._lookout.until())

    # taken

    def took(self, slot: Slot, claim: Claim, *, stops: bool) -> None:
        """A slot has claimed a turn."""
        try:
            turn = read(claim.envelope)
        except PayloadError as error:
            self._completer.note(claim, Outcome.failed(str(error)))
            return
        if turn.is_look:
            self._lookout.look_at(HeldTurn(claim, turn))
            return
        self._has_taken = True
        slot.turns_until = ticks() + APART
        permit = Permit(slot, claim, turn)
        if turn.terms.is_rate:
            permit.credit = credit_of(turn.terms, claim.notes, self._clock.now())
        if turn.terms.is_at_once and slot.concurrency == 1 and (slot.name, turn.key) in self._with_key:
            # One worker executes one at a time: another permit of the key is for another one.
            self._completer.note(claim, Outcome.again(due=self._clock.now() + OTHERS))
            return
        self._held[permit.mark] = permit
        self._with_key[slot.name, turn.key] = permit
        if stops or not permit.is_usable or (permit.credit is not None and permit.credit.whole < 1):
            self._give_back(permit)
        else:
            self._ask_next(permit)

    def _ask_next(self, permit: Permit) -> None:
        self._fresh[permit] = None
        permit.fresh_at = ticks()
        permit.slot.reserved += 1
        self._look()

    # asks

    def wants(self) -> dict[Want, Slot]:
        """What to claim with the next exchange: turns for slots that had some just now, and runs of permits."""
        found: dict[Want, Slot] = {}
        for slot in self._slots:
            if slot.turns_until and (turns := slot.turn_want(self._most(slot))) is not None:
                found[turns] = slot
        if self._going:
            self._go_on()
        waiting: dict[Slot, list[Permit]] = {}
        for permit in list(self._fresh):
            if permit.is_usable:
                waiting.setdefault(permit.slot, []).append(permit)
            else:
                self._ask_no_more(permit)
        for slot, permits in waiting.items():
            room = slot.room(self._most(slot)) + len(permits)
            each = 1.0 if _gives_one(permits[0]) else slot.turn_yield
            number = min(len(permits), max(1, int(room / each))) if room > 0 else 0
            for permit in permits[:number]:
                want = self._want(permit, room // number)
                if want is not None:
                    found[want] = slot
        return found

    def _go_on(self) -> None:
        """Have some permits ask for more while they have runs, so that their workers are never without."""
        now = ticks()
        rooms: dict[Slot, float] = {}
        for permit in list(self._going):
            slot = permit.slot
            if now >= permit.since + TURN or not permit.is_usable:
                self._going.discard(permit)
                continue
            if _gives_one(permit):
                if len(permit.runs) <= slot.each // 2:
                    self._going.discard(permit)
                    self._ask_next(permit)
                continue
            if slot not in rooms:
                rooms[slot] = slot.room(self._most(slot))
            if rooms[slot] > len(permit.runs):
                rooms[slot] -= max(slot.turn_yield, len(permit.runs))
                self._going.discard(permit)
                self._ask_next(permit)

    def _want(self, permit: Permit, limit: int) -> Want | None:
        slot, (key, _, _) = permit.slot, permit.turn
        is_one = _gives_one(permit)
        if is_one:
            most = self._most(slot)
            left = slot.each if most is None else most - len(slot.held) - slot.number_behind
            limit = max(1, min(slot.each, left))
        if permit.credit is not None:
            permit.credit = permit.credit.then(self._clock.now())
            limit = min(limit, permit.credit.whole)
            if limit < 1:
                self._give_back(permit)
                return None
            permit.credit = permit.credit.less(limit)  # noted with this exchange, before it claims
            self._completer.note(permit.claim, Outcome.started(notes=permit.credit.packed()))
        self._unfresh(permit)
        permit.asked = limit
        permit.reserves = 1 if is_one else limit
        slot.reserved += permit.reserves
        want = Want(key.queue, keyed_routes(key.route, key.digest), slot.name, new_token(), limit)
        self._asking[want.token] = permit
        return want

    def _ask_no_more(self, permit: Permit) -> None:
        if permit.runs and permit.turn.terms.is_at_once:
            self._unfresh(permit)  # it goes back when they have ended
        else:
            self._give_back(permit)

    def _unfresh(self, permit: Permit) -> None:
        if permit in self._fresh:
            del self._fresh[permit]
            permit.slot.reserved -= 1

    # is answered

    def of(self, token: str) -> Permit | None:
        """The permit that has asked for what bears this token."""
        return self._asking.get(token) if self._asking else None

    def may_start(self, permit: Permit, claim: Claim, taken: Collection[str]) -> bool:
        """Whether a run that a permit has asked for may start; from then on the permit has it."""
        terms = terms_of(claim.envelope)
        if permit.credit is not None and permit.claim.id not in taken:
            permit.is_lost = True
        if terms is None or permit.is_lost or not self._allows(permit, terms):
            return False
        self._runs[claim.id, claim.token] = permit
        permit.runs.add((claim.id, claim.token))
        return True

    def _allows(self, permit: Permit, terms: Terms) -> bool:
        """Whether it allows a run of these terms: since it was put, they may have changed."""
        key, place, before = permit.turn
        if terms == before:
            return True
        if terms.is_rate != before.is_rate or terms.is_at_once != before.is_at_once or place >= terms.permits:
            permit.turn = Turn(key, place, terms)
            permit.is_lost = True  # it has to go; those that these runs need come in its place
            return False
        if permit.credit is not None:
            permit.credit = permit.credit.under(terms)
        permit.turn = Turn(key, place, terms)
        return True

    def answered(self, delivery: Delivery) -> None:
        """What was asked for has come, and was handed out."""
        if not self._asking:
            return
        got: dict[str, int] = {}
        for claim in delivery.result.claims:
            got[claim.token] = got.get(claim.token, 0) + 1
        for want in delivery.wants:
            permit = self._asking.pop(want.token, None)
            if permit is not None:
                permit.slot.reserved -= permit.reserves
                self._answered(permit, got.get(want.token, 0))
        if self._fresh:  # they had no room beside those
            self._look()

    def _answered(self, permit: Permit, got: int) -> None:
        terms, asked = permit.turn.terms, permit.asked
        permit.asked, permit.is_dry = 0, got < asked
        if asked > 1 and not _gives_one(permit):
            permit.slot.learn_turn(asked, got)
        if permit.credit is not None:
            permit.credit = permit.credit.less(got - asked)
        if permit.is_lost and permit.runs:
            return
        if permit.is_lost or (not permit.is_dry and not terms.is_at_once):
            self._settle(permit)
            return
        if not permit.is_dry:
            self._have_more(permit, asked)
            if permit.slot.concurrency == 1 or asked > 1:
                self._going.add(permit)
        if permit.is_dry and permit.runs and not terms.is_at_once:
            self._slow[permit] = ticks() + SLOW
        if not permit.runs:
            self._settle(permit)

    def _have_more(self, permit: Permit, asked: int) -> None:
        """There may be more than it has got: have another permit put then, so that others can have some of it."""
        key, _, terms = permit.turn
        if terms.permits > 1 and self._more_at.get((key, terms), 0.0) <= ticks():
            self._lookout.have_more(key, terms)
            if asked > 1:  # it asks again soon
                self._more_at[key, terms] = ticks() + AGAIN

    # one behind the other

    def may_have(self, permit: Permit, slot: Slot, held: Held) -> bool:
        """Whether the worker of this slot may have a run of a permit; nothing waits behind one that is to run alone."""
        if permit.worker is not slot.body:
            return False
        first = permit.chain.first
        return first is None or not (first.alone or held.alone) or not _gives_one(permit)

    def follows(self, permit: Permit, held: Held) -> bool:
        """Whether a run is to start behind another one of its permit: in a worker that could execute both at once."""
        if not _gives_one(permit):
            return False
        if permit.chain.first is not None:
            return True
        self._begin(permit, held)
        return False

    def _begin(self, permit: Permit, held: Held) -> None:
        permit.chain.first, permit.chain.since = held, ticks()
        self._firsts[held.claim.id, held.claim.token] = permit

    def pass_on(self, outcomes: Sequence[tuple[Claim, Outcome]]) -> None:
        """Hand out what follows the runs of these outcomes: these have ended in their workers, if not in the source."""
        if not self._firsts:
            return
        for claim, outcome in list(outcomes):  # to which come those that are handed back
            if outcome.kind not in ("started", "progress"):
                self._after((claim.id, claim.token))

    def _after(self, mark: Mark) -> None:
        permit = self._firsts.pop(mark, None)
        if permit is None:
            return
        slot, chain = permit.slot, permit.chain
        chain.first = None
        if chain not in slot.behind:
            return
        most = self._most(slot)
        if not permit.is_usable or slot.is_for_one or (most is not None and most <= len(slot.held) + slot.reserved):
            self._hand_back_behind(permit)
            return
        held = slot.behind[chain].popleft()
        if not slot.behind[chain]:
            del slot.behind[chain]
        self._begin(permit, held)
        if held.careful:
            slot.waiting.append(held)
        else:
            self.hand(slot, [held])

    def _hand_back_behind(self, permit: Permit) -> None:
        back = permit.slot.behind.pop(permit.chain, None)
        if back:
            self._completer.hand_back(permit.slot, list(back))

    # ends

    def ending(self, outcomes: Sequence[tuple[Claim, Outcome]]) -> None:
        """These outcomes go to the source next. Their workers are free, so what their permits do next goes along.

        But for those that are to leave: they look at their keys again, once these have ended in the source.
        """
        if not self._runs:
            return
        for claim, outcome in list(outcomes):  # to which permits that go back are added
            permit = self._runs.get((claim.id, claim.token))
            if permit is None or permit.asked or permit.is_dry or permit.is_lost:
                continue
            if outcome.kind not in ("started", "progress"):
                self.gone(claim)

    def ended(self, delivery: Delivery) -> None:
        """These outcomes have reached the source."""
        if not self._has_taken:
            return
        for claim, outcome in delivery.outcomes:
            mark = claim.id, claim.token
            if outcome.kind == "started" and mark in self._held and claim.id not in delivery.result.taken:
                self._held[mark].is_lost = True
            if outcome.kind not in ("started", "progress"):
                self.gone(claim)
            if outcome.kind in ("again", "untouched") and claim.id in delivery.result.taken:
                self._is_back(claim, outcome)

    def _is_back(self, claim: Claim, outcome: Outcome) -> None:
        """A run has been put back. A permit of runs at once is there until then; any other may have been let go.

        So may one that did not allow the run, as its terms were others.
        """
        key, terms = key_of(claim.envelope), terms_of(claim.envelope)
        if key is not None and terms is not None and (not terms.is_at_once or outcome.kind == "untouched"):
            self._lookout.look_again(key, terms, outcome.due or 0.0)

    def gone(self, claim: Claim) -> None:
        """A run has ended here, or was taken away."""
        mark = claim.id, claim.token
        permit = self._runs.pop(mark, None)
        self._after(mark)
        if permit is None:
            return
        permit.runs.discard(mark)
        if not (permit.runs or permit.asked) and permit.mark in self._held and permit not in self._fresh:
            self._settle(permit)

    def _settle(self, permit: Permit) -> None:
        """It has nothing more to wait for: let it go, give it back, or go on."""
        self._slow.pop(permit, None)
        self._going.discard(permit)
        terms, is_full = permit.turn.terms, permit.credit is None or permit.credit.then(self._clock.now()).is_full
        if permit.is_lost or (permit.is_dry and is_full):
            self._let_go(permit)
        elif terms.is_at_once and permit.is_usable and not permit.is_dry and ticks() < permit.since + TURN:
            self._ask_next(permit)
        elif permit.credit is not None and self._may_rest(permit):
            self._resting[permit] = ticks() + max(0.0, permit.credit.when(1.0) - self._clock.now())
        else:
            self._give_back(permit)

    def _may_rest(self, permit: Permit) -> bool:
        """Whether it is kept until the next run of its key may start: that saves claiming it anew."""
        assert permit.credit is not None
        left = permit.credit.when(1.0) - self._clock.now()
        is_early = ticks() < permit.since + RESTS and left < RESTS
        return is_early and permit.is_usable and not permit.is_dry and self._has_room(permit.slot)

    def _give_back(self, permit: Permit) -> None:
        """Ripe now, behind those of other keys; with a rate, when the next may start."""
        now = self._clock.now()
        due, notes, credit = now, None, permit.credit
        if credit is not None:
            credit = credit.then(now)
            notes = credit.packed()
            if credit.whole < 1:
                due = credit.when(1.0)
            elif permit.is_dry:
                due = min(now + POLL, credit.when(float(credit.terms.burst)))
        self._drop(permit)
        self._completer.note(permit.claim, Outcome.again(due=due, notes=notes))
        self._look()

    def _drop(self, permit: Permit) -> None:
        self._unfresh(permit)
        self._going.discard(permit)
        self._slow.pop(permit, None)
        self._resting.pop(permit, None)
        self._held.pop(permit.mark, None)
        name = permit.slot.name, permit.turn.key
        if self._with_key.get(name) is permit:
            del self._with_key[name]
        for mark in permit.runs:
            self._runs.pop(mark, None)
            self._firsts.pop(mark, None)
        self._hand_back_behind(permit)

    def _let_go(self, permit: Permit) -> None:
        self._drop(permit)
        self._held[permit.mark] = permit  # its lease is extended until the store has been told
        self._letting_go.add(permit)
        self._lookout.let_go(HeldTurn(permit.claim, permit.turn))

    # the engine's turn

    def tend(self, *, stops: bool) -> list[str]:
        """What time brings. ``stops``: the pool asks for nothing more. Gives sentences for the log."""
        if self._fresh or self._slow or self._resting:
            now = ticks()
            for permit in [permit for permit, until in self._resting.items() if stops or now >= until]:
                del self._resting[permit]
                self._ask_next(permit)
            for permit in list(self._fresh):
                if stops or not permit.is_usable or (now >= permit.fresh_at + SLOW and not self._has_room(permit.slot)):
                    self._ask_no_more(permit)
                elif now >= permit.fresh_at + SLOW:  # the source is slow
                    permit.fresh_at = now
            for permit in [permit for permit, until in self._slow.items() if now >= until]:
                self._settle(permit)
        done = self._lookout.tend()
        if done is None:
            return []
        for claim in done.gone:
            gone = self._held.pop((claim.id, claim.token), None)
            if gone is not None:
                self._letting_go.discard(gone)
        if len(self._more_at) >= MOST_KEYS:
            self._more_at.clear()
        self._more_at.update(dict.fromkeys(done.full.items(), ticks() + FULL))
        self._look()
        return done.troubles

    def _has_room(self, slot: Slot) -> bool:
        return slot.room(self._most(slot)) + slot.reserved > 0

    # leases

    def lost(self, marks: Collection[Mark]) -> set[Mark]:
        """The leases of these are lost; gives the claims of the runs that must not go on without them."""
        found: set[Mark] = set()
        for permit in [self._held[mark] for mark in marks if mark in self._held]:
            permit.is_lost = True
            if permit in self._letting_go:
                continue
            if permit.turn.terms.is_at_once:
                found |= permit.runs
            self._drop(permit)
        return found

    def is_guarded(self, mark: Mark) -> bool:
        """Whether a run must not go on when leases have ended."""
        permit = self._runs.get(mark)
        return permit is not None and permit.turn.terms.is_at_once and not self._settings.in_process


def _gives_one(permit: Permit) -> bool:
    """Whether its runs start one behind the other though its worker could execute several at once."""
    return permit.turn.terms.is_at_once and permit.slot.concurrency > 1
