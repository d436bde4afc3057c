"""A transaction of the user's own: runs that are put in it are stored when it is committed, or not at all.

The user's retry loop may run the function several times, with one transaction, and the fate of an attempt may be
unknown. So what is fired again in a later attempt is the very run that was fired in the one before: it comes once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary, ref

from skunkqueue.envelope import Envelope, open_body
from skunkqueue.errors import Corrupt, WrongCall
from skunkqueue.persistence.fdb.connect import Link
from skunkqueue.persistence.fdb.errors import Gone
from skunkqueue.persistence.fdb.put import put
from skunkqueue.persistence.fdb.step import Step


class _Attempts:
    """What was put in a transaction: in this attempt, and in earlier ones that were given up for another try."""

    def __init__(self) -> None:
        self.version = 0
        self.retried = False
        self.now: list[Envelope] = []
        self.before: list[Envelope] = []

    def again(self) -> None:
        """The client is asked to try again."""
        self.before += self.now
        self.now = []
        self.retried = True

    def begin(self, version: int) -> None:
        """Note the read version. If it is new, but not for another try, this is another transaction."""
        if version != self.version and not self.retried:
            self.before, self.now = [], []
        self.version, self.retried = version, False

    def same(self, envelope: Envelope) -> Envelope:
        """The envelope; the one of an earlier attempt, if that fired the same."""
        found = next((each for each in self.before if _is_same(each, envelope)), None)
        if found is not None:
            self.before.remove(found)
        self.now.append(found or envelope)
        return found or envelope


_attempts: WeakKeyDictionary[Any, _Attempts] = WeakKeyDictionary()


def put_via(tr: Any, envelopes: Sequence[Envelope], link: Link, fdb: Any) -> list[str]:
    """Put runs in a transaction of the user's. Raises WrongCall where that cannot be kept to.

    Errors of the client are raised as they are: the user's retry loop has to see them.
    """
    space = link.space()
    _check(tr, link, fdb)
    entry = tr[space.entry]
    attempts = _attempts_of(tr)
    attempts.begin(tr.get_read_version().wait())
    if entry.value != space.prefix:
        raise Gone(f"the directory of FoundationDB at {link.target.url} was moved or removed: start this process again")
    step = Step(tr, space, 0.0)
    ids = put(step, [attempts.same(envelope) for envelope in envelopes])
    step.flush()
    return ids


def _attempts_of(tr: Any) -> _Attempts:
    """What was put in this transaction before. Learns of another try by the call that every retry loop makes."""
    found = _attempts.get(tr)
    if found is None:
        found = _attempts[tr] = attempts = _Attempts()
        kind, there = type(tr), ref(tr)  # no circle: the client's transaction ends with the last one that holds it

        def on_error(error: Any) -> Any:
            attempts.again()
            return kind.on_error(there(), error)

        tr.on_error = on_error
    return found


def _is_same(one: Envelope, other: Envelope) -> bool:
    return one.id == other.id or (
        (one.queue, one.route, one.unique, one.keep) == (other.queue, other.route, other.unique, other.keep)
        and _call(one) == _call(other)
    )


def _call(envelope: Envelope) -> object:
    """What is called: all of the body but its signature, which is over the id."""
    try:
        body = open_body(envelope.body)
    except Corrupt:
        return envelope.body
    return body.head, body.code, body.call


def _check(tr: Any, link: Link, fdb: Any) -> None:
    if not isinstance(tr, fdb.Transaction):
        raise WrongCall(
            f"via is a transaction of FoundationDB, the one that an @fdb.transactional function is given; "
            f"got {type(tr).__name__}"
        )
    # Another handle to the same cluster, or to the same tenant of it, finds the same mark there, a random number.
    if tr.db is not link.database and tr[link.space().mark].value != link.mark:
        raise WrongCall(f"via is a transaction of another cluster or tenant; the queue is at {link.target.url}")
