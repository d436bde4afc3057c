"""Packs the arguments of the Redis store's scripts, and reads their replies. The layout is in ``lua/shared.lua``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from skunkqueue.envelope import DAY, Claim, Envelope, Outcome, Record, State, Want, is_for_later, old_place
from skunkqueue.errors import StoreError
from skunkqueue.persistence import REMEMBERED

STORE_KEY = "skunk:{@}"
"""The base key of what belongs to the store and to no queue; no queue can have this name."""

BUNCH = 1000
"""How many runs one step of a script takes together: Lua cannot unpack many more."""

ALIKE = 8
"""A group of so many runs of one route gets a call of its own, if there are others beside it."""

SOON = 5.0
"""A claimer that is full wakes another one for runs that ripen within so many seconds."""

CHUNK = 500

ALL_VALUES = "1e18"
"""For a script that gives brief records: with results of any size."""

CHUNK_BYTES = 4 << 20

NONE = b"-:"

LOST = "?"
"""The route of a run of which it cannot be told."""

LETTERS: Mapping[str, State] = {
    "q": State.QUEUED,
    "r": State.RUNNING,
    "s": State.SUCCEEDED,
    "f": State.FAILED,
    "c": State.CANCELLED,
}


def base_key(queue: str) -> str:
    """What all keys of a queue start with; its braces keep them in one slot."""
    return f"skunk:{{{queue}}}"


def base_of(key: str) -> str:
    """The base key of one of a queue's keys."""
    return key[: key.index("}") + 1]


def id_of(data: bytes) -> str:
    """An id as text. ``raw`` gives the same bytes again, also where they are damaged."""
    return data.decode(errors="surrogateescape")


def as_bytes(id: str) -> bytes:
    return id.encode(errors="surrogateescape")


def raw(id: str) -> str | bytes:
    """An id as a command takes it."""
    return id if id.isascii() else as_bytes(id)


def raws(ids: Sequence[str]) -> Sequence[str | bytes]:
    return ids if "".join(ids).isascii() else [raw(id) for id in ids]


def field(value: str | bytes | None) -> bytes:
    """A field as the scripts read it: length, colon, bytes."""
    if value is None:
        return NONE
    data = value.encode() if isinstance(value, str) else value
    return b"%d:%b" % (len(data), data)


def held(token: str) -> bytes:
    """The beginning of the stored claim while the run is leased."""
    return b"r" + field(token)


def _pack_envelope(envelope: Envelope) -> bytes:
    _, _, route, due, body, expires, unique, keep = envelope
    if expires is None and unique is None:
        return b"=%b %b %b\n%b" % (repr(due).encode(), route.encode(), repr(keep).encode(), body)
    key = b"" if unique is None else unique.encode()
    length = "-" if unique is None else len(key)
    head = f"!{due!r} {route} {keep!r} {'-' if expires is None else repr(expires)} {length}\n"
    return head.encode() + key + body


_plain: dict[bytes, tuple[str, float]] = {}
"""Cache of route and keep of plain envelopes, by the text between due and body: few differ."""

# What a named tuple's own constructor does, in a third of the time; a pool makes one of each for every run.
_tuple: Any = tuple.__new__


class Damaged(StoreError):
    """A reply of a script cannot be read. The script repairs the run when the want is repeated."""


def _open_envelope(queue: str, id: bytes, data: bytes) -> Envelope:
    space = data.index(b" ")
    newline = data.index(b"\n", space)
    rest = data[space:newline]
    seen = _plain.get(rest)
    if seen is None:
        return _read_envelope(queue, id, data)
    envelope: Envelope = _tuple(
        Envelope, (id.decode(), queue, seen[0], float(data[1:space]), data[newline + 1 :], None, None, seen[1])
    )
    return envelope


def _read_envelope(queue: str, id: bytes, data: bytes) -> Envelope:
    head, _, body = data.partition(b"\n")
    due, route, keep, *more = head.split(b" ")
    if not more:
        if len(_plain) > 1000:
            _plain.clear()
        _plain[head[len(due) :]] = route.decode(), float(keep)
        return Envelope(id_of(id), queue, route.decode(), float(due[1:]), body, None, None, float(keep))
    size = 0 if more[1] == b"-" else int(more[1])
    expires = None if more[0] == b"-" else float(more[0])
    unique = None if more[1] == b"-" else body[:size].decode()
    return Envelope(id_of(id), queue, route.decode(), float(due[1:]), body[size:], expires, unique, float(keep))


def chunks(envelopes: Sequence[Envelope], places: Sequence[int]) -> Iterator[Sequence[int]]:
    """The positions in chunks, so that no single script blocks the server for long."""
    for at in range(0, len(places), CHUNK):
        some = places[at : at + CHUNK]
        while some:
            fits = len(some)
            while fits > 1 and sum(len(envelopes[i].body) for i in some[:fits]) > CHUNK_BYTES:
                fits //= 2
            yield some[:fits]
            some = some[fits:]


def is_plain(envelope: Envelope) -> bool:
    """Whether the run neither expires nor has a unique key."""
    return envelope[5] is None and envelope[6] is None


def one_arguments(envelope: Envelope) -> tuple[Any, ...]:
    """The arguments of the script ``put_one``, for a single plain run."""
    return envelope[2], repr(envelope[3]), envelope[0], _pack_envelope(envelope), _told(envelope)


def _told(envelope: Envelope) -> str:
    """When a run is due that is for later, else nothing: what the pools are told."""
    return repr(envelope[3]) if is_for_later(envelope) else ""


class Puts(NamedTuple):
    """Runs of one queue, sorted into what the put scripts take together, with their places in the order given.

    ``alike`` has many plain runs of one route, ``each`` the others.
    """

    alike: list[tuple[list[Any], list[int]]]
    each: tuple[list[Any], list[int]]


def put_arguments(envelopes: Sequence[Envelope], places: Sequence[int]) -> Puts:
    """The arguments of the put scripts for runs of one queue."""
    routes: dict[str, list[int]] = {}
    each: list[int] = []
    are_different = len({envelopes[i][0] for i in places}) == len(places)
    for i in places:
        _, _, route, _, _, expires, unique, _ = envelopes[i]
        if expires is None and unique is None and are_different:
            routes.setdefault(route, []).append(i)
        else:
            each.append(i)
    if len(routes) > 1 or each:
        for route in [route for route, some in routes.items() if len(some) < ALIKE]:
            each += routes.pop(route)
    each.sort()  # of two with the same id or unique key the first is put
    alike = [(_put_alike(route, envelopes, some), some) for route, some in routes.items()]
    one_by_one = [envelopes[i] for i in each]
    return Puts(alike, ([part for e in one_by_one for part in (e.id, _pack_envelope(e), _told(e))], each))


def _put_alike(route: str, envelopes: Sequence[Envelope], places: Sequence[int]) -> list[Any]:
    times: list[Any] = [route, len(places)]
    packed: list[bytes] = []
    last_due = last_keep = -1.0
    due = head = b""
    for i in places:
        envelope = envelopes[i]
        if envelope[3] != last_due or envelope[7] != last_keep:  # runs of one call often have the same
            last_due, last_keep = envelope[3], envelope[7]
            due = repr(last_due).encode()
            head = b"=%b %b %b\n" % (due, route.encode(), repr(last_keep).encode())
        times += (due, envelope[0])
        packed.append(head + envelope[4])
    ids: list[str] = times[3::2]
    later = min((envelopes[i].due for i in places if is_for_later(envelopes[i])), default=None)
    told = "" if later is None else repr(later)
    return [*times, *packed, told, "".join([f"{id}\n" for id in ids]), min(ids)]


class OutcomeBatch:
    """Outcomes, sorted into what the exchange script takes together. Each run stands in it once.

    ``later`` are those from the first that names a run a second time, ``first`` those before it.
    """

    def __init__(self, outcomes: Sequence[tuple[Claim, Outcome]], now: float) -> None:
        self.ids: set[str] = set()
        self.first: Sequence[tuple[Claim, Outcome]] = outcomes
        self.later: Sequence[tuple[Claim, Outcome]] = ()
        self._now = now
        self._ended = field(repr(now))
        self._alike: dict[str, dict[Any, tuple[list[str], list[bytes]]]] = {}
        self._each: dict[str, list[tuple[Any, ...]]] = {}
        self._sort(outcomes)

    def _sort(self, outcomes: Sequence[tuple[Claim, Outcome]]) -> None:
        ids, ended, key, group = self.ids, self._ended, None, ([], [])  # type: tuple[Any, bytes, Any, Any]
        for n, (claim, outcome) in enumerate(outcomes):
            (id, queue, route, _, _, expires, unique, keep), token, _, _, _, _ = claim
            kind, value, error, _, notes, kept, _, _ = outcome
            if id in ids:
                self.first, self.later = outcomes[:n], outcomes[n:]
                return
            ids.add(id)
            if kind not in _ENDS or notes is not None or expires is not None or unique is not None:
                self._each.setdefault(queue, []).append(_careful(claim, outcome, self._now, ended))
                continue
            if key != (kind, token, route, keep, kept, queue):  # outcomes of one claim are adjacent
                key = (kind, token, route, keep, kept, queue)
                group = self._alike.setdefault(queue, {}).setdefault(key, ([], []))
            group[0].append(id)
            if error is None and value is not None:
                group[1].append(b"%d:%b-:%b" % (len(value), value, ended))
            else:
                group[1].append(field(value) + field(error) + ended)

    def queues(self) -> set[str]:
        return {*self._alike, *self._each}

    def arguments(self, queue: str) -> list[Any]:
        """The script's arguments for the runs of one queue: the number of groups, and the groups."""
        args: list[Any] = [0]
        for (kind, token, route, keep, kept, _), (ids, tails) in self._alike.get(queue, {}).items():
            until = repr(self._now + max(keep if kept is None else kept, REMEMBERED))
            for at in range(0, len(ids), BUNCH):
                some = raws(ids[at : at + BUNCH])
                args += ("e", _ENDS[kind], held(token), route, until, len(some), *some, *tails[at : at + BUNCH])
                args[0] += 1
        for one in self._each.get(queue, ()):
            args += one
            args[0] += 1
        return args


_ENDS = {"complete": "s", "failed": "f"}


def _careful(claim: Claim, outcome: Outcome, now: float, ended: bytes) -> tuple[Any, ...]:
    envelope = claim.envelope
    kind, moment, first, second = _TURNS[outcome.kind](envelope, outcome, now)
    if outcome.kind in _ENDS:
        first = field(outcome.value) + field(outcome.error) + ended
    expires = "" if envelope.expires is None else repr(envelope.expires)
    return (
        "o", kind, held(claim.token), envelope.route, raw(envelope.id), expires, envelope.unique or "", moment,
        field(outcome.notes), first, second,
    )  # fmt: skip


_Turn = tuple[str, str, bytes | str, bytes | str]


def _turn_end(envelope: Envelope, outcome: Outcome, now: float) -> _Turn:
    keep = envelope.keep if outcome.keep is None else outcome.keep
    return _ENDS[outcome.kind], repr(now + max(keep, REMEMBERED)), "", ""


def _turn_again(envelope: Envelope, outcome: Outcome, now: float) -> _Turn:
    return "q", repr(old_place(envelope.due, now) if outcome.due is None else outcome.due), field(outcome.error), ""


def _turn_untouched(envelope: Envelope, outcome: Outcome, now: float) -> _Turn:
    return "q", repr(old_place(envelope.due, now)), "=", ""


def _turn_started(envelope: Envelope, outcome: Outcome, now: float) -> _Turn:
    return "k", "", "=", ""


def _turn_progress(envelope: Envelope, outcome: Outcome, now: float) -> _Turn:
    progress = None if outcome.progress is None else repr(outcome.progress)
    return "k", "", field(progress), field(outcome.note)


_TURNS: Mapping[str, Callable[[Envelope, Outcome, float], _Turn]] = {
    "complete": _turn_end,
    "failed": _turn_end,
    "again": _turn_again,
    "untouched": _turn_untouched,
    "started": _turn_started,
    "progress": _turn_progress,
}


def want_arguments(wants: Sequence[Want]) -> list[Any]:
    args: list[Any] = []
    for want in wants:
        claim = held(want.token)
        fresh = claim + field(want.worker) + b"1:00:-:-:-:"
        args += (fresh, claim, want.token, want.worker, want.limit, int(want.repeated), len(want.routes), *want.routes)
    return args


# -- reading ---------------------------------------------------------------------------------------------------------


def read_exchange(
    wants: Sequence[Want], reply: Sequence[Any], until: float
) -> tuple[set[str], list[Claim], float | None, float]:
    """The ids refused, the claims, when the next run ripens, and when that was by whichever clock was asked for."""
    refused, next_ripe, bunches, now = reply
    try:
        claims = read_claims(wants, bunches, until)
    except (ValueError, IndexError, TypeError) as error:
        raise Damaged(f"a run that was claimed is damaged: {error}") from error
    return {id_of(id) for id in refused}, claims, float(next_ripe) if next_ripe else None, float(now)


def read_claims(wants: Sequence[Want], bunches: Any, until: float) -> list[Claim]:
    """The claims in an exchange's reply."""
    claims: list[Claim] = []
    for number, ids, envelopes, held_as, untils in bunches:
        queue, routes, worker, token, *_ = wants[number]
        if held_as:
            each = zip(ids, envelopes, held_as, untils, strict=True)
            claims += [_read_claim(queue, *one) for one in each]
        else:
            got = [
                _tuple(Claim, (_open_envelope(queue, id, envelope), token, worker, until, 0, b""))
                for id, envelope in zip(ids, envelopes, strict=True)
            ]
            if not {claim[0][2] for claim in got}.issubset(routes):
                raise ValueError("its envelope names another route")
            claims += got
    return claims


def _read_claim(queue: str, id: bytes, envelope: bytes, claim: bytes, till: bytes) -> Claim:
    token, worker, lapses, notes = _read_fields(claim[1:], 7)[:4]
    return Claim(
        open_damaged(queue, id, envelope), _text(token) or "", _text(worker) or "", float(till), _whole(lapses),
        notes or b"",
    )  # fmt: skip


def _read_fields(data: bytes, number: int) -> list[bytes | None]:
    """The fields. Where they are damaged, what cannot be read is absent."""
    fields: list[bytes | None] = []
    at = 0
    while at < len(data):
        length, colon, _ = data[at : at + 12].partition(b":")
        if not colon or not (length == b"-" or length.isdigit()):
            break
        at += len(length) + 1
        if length == b"-":
            fields.append(None)
        else:
            fields.append(data[at : at + int(length)])
            at += int(length)
    return [*fields, *[None] * (number - len(fields))]


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode(errors="replace")


def _number(data: bytes | None) -> float | None:
    try:
        return None if data is None else float(data)
    except ValueError:
        return None


def _whole(data: bytes | None) -> int:
    return int(data) if data is not None and data.isdigit() and len(data) < 10 else 0


def read_records(queue: str, reply: Sequence[bytes]) -> list[Record]:
    return [_read_record(queue, *reply[at : at + 5]) for at in range(0, len(reply), 5)]


def _read_record(queue: str, id: bytes, envelope: bytes, letter: bytes, ripe: bytes, claim: bytes) -> Record:
    number = 7 if letter in b"qr" else 10
    token, worker, lapses, notes, error, progress, note, *end = _read_fields(claim, number)[:number]
    value, error, ended = end or (None, error, None)
    return Record(
        open_damaged(queue, id, envelope), LETTERS[letter.decode()], float(ripe), _text(token),
        _text(worker), _whole(lapses), notes or b"", value, _text(error), _number(progress), _text(note),
        _number(ended),
    )  # fmt: skip


def open_damaged(queue: str, id: bytes, data: bytes) -> Envelope:
    """The envelope; one that cannot be read has what is there as its body, which whoever opens it reports."""
    try:
        return _read_envelope(queue, id, data)
    except (ValueError, IndexError):
        return Envelope(id_of(id), queue, LOST, 0.0, data, None, None, DAY)


def pairs(reply: Sequence[bytes]) -> list[tuple[str, str]]:
    texts = [id_of(item) for item in reply]
    return list(zip(texts[::2], texts[1::2], strict=True))


def versions(reply: Sequence[bytes]) -> dict[str, int]:
    """The names of queues and the versions of their layouts. What is no name is left out; no version is version 0."""
    named = zip(reply[::2], reply[1::2], strict=True)
    return {name.decode(): _whole(version) for name, version in named if name and name.isascii()}
