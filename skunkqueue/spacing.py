"""Keys made of a call's arguments, windows and debouncing: how far apart the runs of one key are.

A window is held by a run of ours on an internal route: it has the unique key, and is open until the window ends. Its id
is made of the id of the run, so that whoever meets it puts that run again, if its sender died before it could.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from skunkqueue.envelope import Envelope, Record, Seal, State, pack_body, pack_head
from skunkqueue.errors import StoreRefused, WrongCall
from skunkqueue.printable import said
from skunkqueue.routes import base_route
from skunkqueue.times import LATEST

if TYPE_CHECKING:
    from skunkqueue.options import Options
    from skunkqueue.persistence import Persister

WINDOWS: Final = "~windows"
"""What follows a route in the name of the route on which the windows of its runs lie."""
MARGIN: Final = 0.25
"""A run that starts within so many seconds is not moved any more: to cancel it might interrupt it."""
OVERDUE: Final = 1.0
"""One that has not started so many seconds after it was due waits for others, for a worker or for the end of a pause,
and is moved."""
TRIES: Final = 20


def key_of(options: Options, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """The unique key of a call, by the job's own function. Raises WrongCall."""
    assert options.unique_of is not None
    key = options.unique_of(*args, **kwargs)
    if isinstance(key, int) and not isinstance(key, bool):
        key = str(key)
    if not isinstance(key, str) or not key or not key.isprintable():
        raise WrongCall(f"what unique makes of a call of {name} is a printable text or a whole number; got {said(key)}")
    return f"{name}\n{key}"


def adjusted(envelope: Envelope, options: Options, now: float) -> Envelope:
    """The envelope as it is put: due when the debouncing ends, with the time that it has to start counted from there;
    kept for as long as a window may lead to it.
    """
    if options.window is not None:
        return envelope._replace(keep=max(envelope.keep, options.window))
    if options.debounce is None:
        return envelope
    due = max(envelope.due, now + options.debounce)
    expires = None if envelope.expires is None else envelope.expires + (due - envelope.due)
    return envelope._replace(due=due, expires=expires)


def put_spaced(
    store: Persister, envelope: Envelope, options: Options, sealed: Callable[[str], bytes], *, now: float
) -> str:
    """Put a run whose unique key is set, with a window or debounced; returns the id of the run that stands for it now.

    ``sealed`` makes its body for another id.
    """
    envelope = adjusted(envelope, options, now)
    if options.window is not None:
        return _put_in_window(store, envelope, options.window, sealed, now)
    return _put_debounced(store, envelope, now)


# -- windows -----------------------------------------------------------------------------------------------------------


def _put_in_window(
    store: Persister, envelope: Envelope, window: float, sealed: Callable[[str], bytes], now: float
) -> str:
    for _ in range(TRIES):
        (id,) = store.put([_window(envelope, now + window)])
        run = id.removesuffix(WINDOWS)
        if run == envelope.id:
            return store.put([envelope._replace(unique=None)])[0]
        if not _is_over(store, id, now):
            if run not in store.get([run]):  # its sender may be about to put it: the first envelope stands
                store.put([envelope._replace(id=run, unique=None, body=sealed(run))])
            return run
        store.cancel([id], now=now)
    raise StoreRefused(f"run {envelope.id} cannot be put: others fire it with windows that have ended")


def _window(envelope: Envelope, until: float) -> Envelope:
    body = pack_body(pack_head("window", "", Seal()), b"", b"m\xc0")
    route = base_route(envelope.route) + WINDOWS
    return Envelope(envelope.id + WINDOWS, envelope.queue, route, LATEST, body, until, envelope.unique, 0.0)


def _is_over(store: Persister, id: str, now: float) -> bool:
    record = store.get([id]).get(id)
    return record is None or not record.open or (record.envelope.expires or 0.0) <= now


# -- debouncing --------------------------------------------------------------------------------------------------------


def _put_debounced(store: Persister, envelope: Envelope, now: float) -> str:
    """Put it in place of the one with this key that waits; beside one that runs, under the next key."""
    place = 0
    for _ in range(TRIES):
        key = envelope.unique if not place else f"{envelope.unique}\n{place}"
        (id,) = store.put([envelope._replace(unique=key)])
        if id == envelope.id:
            return id
        record = store.get([id]).get(id)
        if record is None or not record.open:
            continue
        if _can_be_moved(record, now):
            store.cancel([id], now=now)
        else:
            place += 1
    raise StoreRefused(f"run {envelope.id} cannot be put: {TRIES} others with its key are open or came in between")


def _can_be_moved(record: Record, now: float) -> bool:
    return record.state == State.QUEUED and not now - OVERDUE < record.ripe <= now + MARGIN
