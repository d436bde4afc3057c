"""What the Redis store's scripts are given, and what their replies mean. The layout is in ``redis.lua``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from skunkqueue.envelope import Claim, Envelope, Outcome, Record, State, Want
from skunkqueue.persistence import REMEMBERED

HOUSE = "skunk:{@}"
"""The base key of what belongs to no queue; no queue can have this name."""

BUNCH = 1000
"""How many runs one step of a script takes together: Lua cannot unpack many more."""

CHUNK = 500
CHUNK_BYTES = 4 << 20

NONE = b"-:"

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


def field(value: str | bytes | None) -> bytes:
    """A field as the scripts read it: length, colon, bytes."""
    if value is None:
        return NONE
    data = value.encode() if isinstance(value, str) else value
    return b"%d:%b" % (len(data), data)


def _pack_envelope(envelope: Envelope) -> bytes:
    _, _, route, due, body, expires, unique, keep = envelope
    if expires is None and unique is None:
        return b"=%b %b %b - -\n%b" % (route.encode(), repr(due).encode(), repr(keep).encode(), body)
    key = b"" if unique is None else unique.encode()
    length = "-" if unique is None else len(key)
    head = f"!{route} {due!r} {keep!r} {'-' if expires is None else repr(expires)} {length}\n"
    return head.encode() + key + body


def _open_envelope(queue: str, id: str, data: bytes) -> Envelope:
    head, _, body = data.partition(b"\n")
    route, due, keep, expires, length = head.split(b" ")
    name = route[1:].decode()
    if route[0] == 61:  # "=": plain
        return Envelope(id, queue, name, float(due), body, None, None, float(keep))
    size = 0 if length == b"-" else int(length)
    unique = None if length == b"-" else body[:size].decode()
    return Envelope(
        id, queue, name, float(due), body[size:], None if expires == b"-" else float(expires), unique, float(keep)
    )


def chunks(envelopes: Sequence[Envelope], places: Sequence[int]) -> Iterator[list[int]]:
    """So many at a time that others are not kept waiting by one script."""
    chunk: list[int] = []
    size = 0
    for i in places:
        if chunk and (len(chunk) >= CHUNK or size + len(envelopes[i].body) > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(i)
        size += len(envelopes[i].body)
    if chunk:
        yield chunk


def put_arguments(envelopes: Sequence[Envelope]) -> tuple[list[Any], list[int]]:
    """What the put script is given for runs of one queue, and which of them its reply speaks of."""
    routes: dict[str, tuple[list[Any], list[bytes]]] = {}
    careful: list[int] = []
    for i, envelope in enumerate(envelopes):
        if envelope.unique is not None or envelope.expires is not None:
            careful.append(i)
            continue
        route = envelope.route
        group = routes.get(route)
        if group is None:
            group = routes[route] = ([], [])
        group[0].extend((repr(envelope.due), envelope.id))
        group[1].append(_pack_envelope(envelope))
    args: list[Any] = []
    for route, (times, packed) in routes.items():
        args += ["b", route, len(packed), *times, *packed]
    if careful:
        args += ["c", len(careful)]
        for i in careful:
            args += (envelopes[i].id, _pack_envelope(envelopes[i]))
    return args, careful


class Given:
    """Outcomes, sorted into what the exchange script takes together. Each run stands in it once."""

    def __init__(self, outcomes: Sequence[tuple[Claim, Outcome]], now: float) -> None:
        self.ids: set[str] = set()
        self.groups: dict[str, tuple[dict[Any, tuple[list[str], list[bytes]]], list[tuple[Any, ...]]]] = {}
        self.later: list[tuple[Claim, Outcome]] = []
        self.first = outcomes
        ended = field(repr(now))
        ids, groups = self.ids, self.groups
        for n, (claim, outcome) in enumerate(outcomes):
            id, queue, route, _, _, expires, unique, keep = claim.envelope
            if id in ids:
                self.first, self.later = outcomes[:n], list(outcomes[n:])
                break
            ids.add(id)
            mine = groups.get(queue)
            if mine is None:
                mine = groups[queue] = ({}, [])
            kind = outcome.kind
            letter = _ENDS.get(kind)
            if letter is None or outcome.notes is not None or expires is not None or unique is not None:
                mine[1].append(_careful(claim, outcome, letter, now, ended))
                continue
            kept = keep if outcome.keep is None else outcome.keep
            key = (letter, claim.token, route, kept)
            group = mine[0].get(key)
            if group is None:
                group = mine[0][key] = ([], [])
            group[0].append(id)
            value = outcome.value
            if value is not None and outcome.error is None:
                group[1].append(b"%d:%b-:%b" % (len(value), value, ended))
            else:
                group[1].append(field(value) + field(outcome.error) + ended)
        self.now = now

    def arguments(self, queue: str) -> list[Any]:
        """What the script is given for the runs of one queue."""
        groups, careful = self.groups.get(queue, ({}, []))
        args: list[Any] = [0]
        for (letter, token, route, keep), (ids, tails) in groups.items():
            kept = repr(self.now + max(keep, REMEMBERED))
            for at in range(0, len(ids), BUNCH):
                some = ids[at : at + BUNCH]
                args += ("e", letter, field(token), route, kept, len(some))
                args += some
                args += tails[at : at + BUNCH]
                args[0] += 1
        for one in careful:
            args += one
        args[0] += len(careful)
        return args


_ENDS = {"complete": "s", "failed": "f"}


def _careful(claim: Claim, outcome: Outcome, letter: str | None, now: float, ended: bytes) -> tuple[Any, ...]:
    envelope = claim.envelope
    kind, moment, first, second = _TURNS[outcome.kind](envelope, outcome, now)
    if letter is not None:
        first = field(outcome.value) + field(outcome.error) + ended
    expires = "" if envelope.expires is None else repr(envelope.expires)
    return (
        "o", kind, field(claim.token), envelope.route, envelope.id, expires, envelope.unique or "", moment,
        field(outcome.notes), first, second,
    )  # fmt: skip


_Turn = tuple[str, str, bytes | str, bytes | str]


def _turn_end(envelope: Envelope, outcome: Outcome, now: float) -> _Turn:
    keep = envelope.keep if outcome.keep is None else outcome.keep
    return _ENDS[outcome.kind], repr(now + max(keep, REMEMBERED)), "", ""


def _turn_again(envelope: Envelope, outcome: Outcome, now: float) -> _Turn:
    return "q", repr(envelope.due if outcome.due is None else outcome.due), field(outcome.error), ""


def _turn_untouched(envelope: Envelope, outcome: Outcome, now: float) -> _Turn:
    return "q", repr(envelope.due), "=", ""


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
        fresh = field(want.token) + field(want.worker) + b"1:00:-:-:-:"
        args += (fresh, want.token, want.worker, want.limit, int(want.repeated), len(want.routes), *want.routes)
    return args


# -- reading ---------------------------------------------------------------------------------------------------------


def read_claims(wants: Sequence[Want], bunches: Any, until: float) -> list[Claim]:
    claims: list[Claim] = []
    for number, ids, envelopes, held, untils in bunches:
        want = wants[number]
        queue, token, worker = want.queue, want.token, want.worker
        if held:
            claims += [_read_claim(queue, *one, until) for one in zip(ids, envelopes, held, untils, strict=True)]
        else:
            claims += [
                Claim(_open_envelope(queue, id.decode(), envelope), token, worker, until)
                for id, envelope in zip(ids, envelopes, strict=True)
            ]
    return claims


def _read_claim(queue: str, id: bytes, envelope: bytes, held: bytes, till: bytes, until: float) -> Claim:
    token, worker, lapses, notes, *_ = _read_fields(held)
    return Claim(
        _open_envelope(queue, id.decode(), envelope),
        _text(token) or "", _text(worker) or "", float(till), int(lapses or 0), notes or b"",
    )  # fmt: skip


def _read_fields(data: bytes) -> list[bytes | None]:
    fields: list[bytes | None] = []
    at = 0
    while at < len(data):
        colon = data.index(b":", at)
        length = data[at:colon]
        at = colon + 1
        if length == b"-":
            fields.append(None)
        else:
            fields.append(data[at : at + int(length)])
            at += int(length)
    return fields


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode()


def _number(data: bytes | None) -> float | None:
    return None if data is None else float(data)


def read_records(queue: str, reply: Sequence[bytes]) -> list[Record]:
    return [_read_record(queue, *reply[at : at + 5]) for at in range(0, len(reply), 5)]


def _read_record(queue: str, id: bytes, envelope: bytes, letter: bytes, ripe: bytes, claim: bytes) -> Record:
    token, worker, lapses, notes, error, progress, note, *end = _read_fields(claim)
    value, error, ended = end or (None, error, None)
    return Record(
        _open_envelope(queue, id.decode(), envelope), LETTERS[letter.decode()], float(ripe), _text(token),
        _text(worker), int(lapses or 0), notes or b"", value, _text(error), _number(progress), _text(note),
        _number(ended),
    )  # fmt: skip


def pairs(reply: Sequence[bytes]) -> list[tuple[str, str]]:
    texts = [item.decode() for item in reply]
    return list(zip(texts[::2], texts[1::2], strict=True))
