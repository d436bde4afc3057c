"""Claims runs: one trip to find what is ripe, one to take what is still as it was found.

A run is taken if it is in the state in which it was found, ripe, and ``claimed`` as often: so what was read of it
holds, and a third trip is needed only where another claimer was faster.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from math import inf
from typing import Any, Final

from pymongo import UpdateMany, UpdateOne
from pymongo.collection import Collection

from skunkqueue.envelope import Claim, Want
from skunkqueue.persistence import EXPIRED
from skunkqueue.persistence.mongodb.connect import RIPE_ORDER
from skunkqueue.persistence.mongodb.documents import (
    UNSHOWN,
    Document,
    bytes_of,
    claim_of,
    count_of,
    date_of,
    envelope_of,
    in_one,
    number_of,
    shelf_of,
    storable,
    token_of,
)
from skunkqueue.persistence.mongodb.end import cancelling, write
from skunkqueue.persistence.mongodb.windows import Windows

ROUNDS: Final = 5
"""How often a claim looks again in place of what other claimers were faster to take."""

WIDEST: Final = 8
"""By up to how many times as many runs as it wants, less one, a claimer passes the first, where many claim at once."""

NEARER: Final = 0.1
"""How likely a claim that lost nothing halves that."""

Taking = tuple[Want, Document]


class Claimer:
    """Claims for the wants of one process.

    ``widths`` has the shelves on which others were faster: there it begins anywhere among so many times as many runs
    as it wants. ``in_order`` says whether the server finds runs in order without sorting all of them.
    """

    def __init__(self) -> None:
        self.widths: dict[str, int] = {}
        self.windows: Windows = Windows()
        self._next = Windows(shortest=1.0, wider=100.0)

    def claim(
        self,
        runs: Collection[Document],
        wants: Sequence[Want],
        now: float,
        until: float,
        bore: dict[str, str | None],
        *,
        in_order: bool = True,
    ) -> list[Claim]:
        """Claim; ``bore`` is given the token that each run bore before."""
        if len(wants) > 1 and any(want.repeated for want in wants):
            # One after the other: an earlier want may take what a later one held, if that lease has ended.
            each = [self.claim(runs, [want], now, until, bore, in_order=in_order) for want in wants]
            return [claim for claims in each for claim in claims]
        given: dict[str, list[Claim]] = {want.token: [] for want in wants}
        for claim in _held(runs, [want for want in wants if want.repeated], until):
            given[claim.token].append(claim)
        for _ in range(ROUNDS):
            left = [w._replace(limit=w.limit - len(given[w.token])) for w in wants if w.limit > len(given[w.token])]
            if not left:
                break
            planned = self._plan(runs, left, now, None if in_order else self.windows)
            claims = _take(runs, planned, now, until)
            for claim in claims:
                given[claim.token].append(claim)
            bore |= {document["_id"]: token_of(document) for _, document in planned}
            self._adapt(planned, claims)
            if len(claims) == len(planned):
                break
        return [claim for want in wants for claim in given.pop(want.token, ())]

    def _plan(
        self, runs: Collection[Document], wants: Sequence[Want], now: float, windows: Windows | None
    ) -> list[Taking]:
        """What to take for each want, in its order; expired runs that are met are ended."""
        shelves = _Shelves(runs, wants, now, self.widths, windows)
        return [(want, document) for want in wants for document in shelves.pick(want)]

    def next_ripe(
        self,
        runs: Collection[Document],
        wants: Sequence[Want],
        claims: Sequence[Claim],
        now: float,
        *,
        in_order: bool = True,
    ) -> float | None:
        """When to look again: now, if a want was filled (there may be more), else when the next run ripens."""
        given = Counter([claim.token for claim in claims])
        if any(0 < want.limit <= given[want.token] for want in wants):
            return now
        shelves = sorted({shelf_of(want.queue, route) for want in wants for route in want.routes})

        def ask(ripe: Document, limit: int, passed: int) -> list[Document]:
            where = {"shelf": {"$in": shelves}, **ripe}
            return list(runs.find(where, {"_id": 0, "ripe": 1}).sort("ripe", 1).skip(passed).limit(limit))

        found = ask({}, 1, 0) if in_order else self._next.first(tuple(shelves), 1, inf, ask, begin=now)
        return number_of(found[0].get("ripe"), 0.0) if found else None

    def _adapt(self, planned: Sequence[Taking], claims: Sequence[Claim]) -> None:
        """Begin farther from the first run of a shelf on which others were faster, nearer to it where none was."""
        taken = {claim.id for claim in claims}
        lost = {document["shelf"] for _, document in planned if document["_id"] not in taken}
        for shelf in {document["shelf"] for _, document in planned}:
            width = self.widths.get(shelf, 1)
            if shelf in lost:
                self.widths[shelf] = min(2 * width, WIDEST)
            elif width > 1 and random.random() < NEARER:  # noqa: S311 - not a secret
                self.widths.pop(shelf, None)
                if width > 2:
                    self.widths[shelf] = width // 2


class _Shelves:
    """The ripe runs of some routes, asked for all together, and then, where that was not enough, shelf by shelf."""

    def __init__(
        self, runs: Collection[Document], wants: Sequence[Want], now: float, widths: dict[str, int],
        windows: Windows | None,
    ) -> None:  # fmt: skip
        self._runs = runs
        self._windows = windows
        self._now = now
        self._widths = widths
        shelves = dict.fromkeys(shelf_of(want.queue, route) for want in wants for route in want.routes)
        self._found: dict[str, list[Document]] = {shelf: [] for shelf in shelves}
        self._seen: dict[str, set[Any]] = {shelf: set() for shelf in shelves}  # picked, or passed over
        self._is_whole: dict[str, bool] = dict.fromkeys(shelves, False)
        self._looked_at: set[str] = set()
        # A window is of one shelf, and one begins anywhere in one shelf only.
        if not any(shelf in widths or (windows is not None and windows.knows(shelf)) for shelf in shelves):
            self._look(list(shelves), sum(want.limit for want in wants))

    def pick(self, want: Want) -> Iterator[Document]:
        """The first runs for a want, route by route as listed."""
        left = want.limit
        for shelf in [shelf_of(want.queue, route) for route in want.routes]:
            while left > 0:
                if self._found[shelf]:
                    left -= 1
                    yield self._found[shelf].pop(0)
                elif self._is_whole[shelf]:
                    break
                else:
                    self._look([shelf], left)

    def _look(self, shelves: list[str], limit: int) -> None:
        """Ask for the ripe runs of shelves. They come shelf by shelf, so the last may be cut off, and those behind it.

        Expired runs are ended, and so are not met again.
        """
        most = limit + sum(len(self._seen[shelf]) for shelf in shelves)
        passed = self._passed(shelves, limit)
        found = self._ripe(shelves, most, passed)
        last = found[-1]["shelf"] if len(found) >= most else None
        over = [document for document in found if number_of(document.get("expires"), inf) <= self._now]
        if over:
            write(self._runs, [cancelling(document, EXPIRED, self._now) for document in over])
        ended = {document["_id"] for document in over}
        for shelf in shelves:
            if last is not None and shelf > last:
                continue
            seen = self._seen[shelf]
            mine = [d for d in found if d["shelf"] == shelf and d["_id"] not in seen and d["_id"] not in ended]
            seen.update(document["_id"] for document in mine)
            self._is_whole[shelf] = not passed and (last is None or shelf < last)
            self._found[shelf] = [document for document in mine if _is_sound(document)]

    def _passed(self, shelves: list[str], limit: int) -> int:
        """How many of the first runs to leave to other claimers; none at any but the first look at a shelf."""
        width = self._widths.get(shelves[0], 1) if len(shelves) == 1 and shelves[0] not in self._looked_at else 1
        self._looked_at.update(shelves)
        return limit * random.randrange(width)  # noqa: S311 - not a secret

    def _ripe(self, shelves: list[str], most: int, passed: int) -> list[Document]:
        if self._windows is None:
            return ripe_runs(self._runs, shelves, self._now, most, passed)
        if len(shelves) == 1:

            def ask(ripe: Document, limit: int, passed: int) -> list[Document]:
                return runs_in_order(self._runs, {"shelf": shelves[0], **ripe}, limit, passed)

            return self._windows.first(shelves[0], most, self._now, ask, begin=self._now, passed=passed)
        found = ripe_runs(self._runs, shelves, self._now, most)
        if len(found) >= most:
            last = [document for document in found if document["shelf"] == found[-1]["shelf"]]
            self._windows.learn(last[-1]["shelf"], last, is_enough=True)
        return found


def ripe_runs(
    runs: Collection[Document], shelves: list[str], until: float, limit: int, passed: int = 0
) -> list[Document]:
    """The first ripe runs of shelves behind those passed, by (shelf, ripe, id): the order of the index."""
    where: Any = shelves[0] if len(shelves) == 1 else {"$in": shelves}
    return runs_in_order(runs, {"shelf": where, "ripe": {"$lte": until}}, limit, passed)


def runs_in_order(runs: Collection[Document], where: Document, limit: int, passed: int = 0) -> list[Document]:
    found = runs.find(where, UNSHOWN).sort(RIPE_ORDER).skip(passed)
    return list(found.limit(limit).batch_size(in_one(limit)))


def _is_sound(document: Document) -> bool:
    """Whether a run can be claimed: its bookkeeping is as we write it."""
    counts = (document.get("claimed"), document.get("lapses", 0))
    return document.get("state") in ("queued", "running") and all(isinstance(each, int) for each in counts)


def _take(runs: Collection[Document], planned: Sequence[Taking], now: float, until: float) -> list[Claim]:
    """Take what was planned, where it is as it was found; returns the claims."""
    if not planned:
        return []
    groups: dict[tuple[str, str, int], list[Taking]] = {}
    for want, document in planned:
        groups.setdefault((want.token, document["state"], document["claimed"]), []).append((want, document))
    taken = write(runs, [_taking(group, now, until) for group in groups.values()])
    if taken == len(planned) and all(d["state"] == "queued" and "body" in d for _, d in planned):
        return [_claim_of(want, document, until) for want, document in planned]
    # Others were faster, or one was taken whose last holder may have noted something after it was found.
    ids = [document["_id"] for _, document in planned]
    tokens = list({want.token for want, _ in planned})
    ours = {"_id": {"$in": ids}, "held": {"$in": tokens}}
    held = {each["_id"]: each for each in runs.find(ours, UNSHOWN, batch_size=in_one(len(ids)))}
    return [
        claim_of(held[d["_id"]]) for want, d in planned if d["_id"] in held and held[d["_id"]]["held"] == want.token
    ]


def _taking(group: Sequence[Taking], now: float, until: float) -> UpdateOne | UpdateMany:
    """Takes runs for one want that were found in the same state."""
    want, first = group[0]
    ids = [document["_id"] for _, document in group]
    where = {
        "_id": ids[0] if len(ids) == 1 else {"$in": ids},
        "state": first["state"], "claimed": first["claimed"], "ripe": {"$lte": now},
    }  # fmt: skip
    change: Document = {
        "$set": {
            "state": "running", "ripe": until, "ripe_at": date_of(until), "held": want.token,
            "worker": storable(want.worker),
        },
        "$unset": {"token": ""},
        "$inc": {"claimed": 1} | ({"lapses": 1} if first["state"] == "running" else {}),
    }  # fmt: skip
    return (UpdateOne if len(ids) == 1 else UpdateMany)(where, change)


def _claim_of(want: Want, document: Document, until: float) -> Claim:
    """The claim on a run that was queued as in this document."""
    notes = document.get("notes")
    return Claim(
        envelope_of(document), want.token, want.worker, until, count_of(document.get("lapses")),
        b"" if notes is None else bytes_of(notes),
    )  # fmt: skip


def _held(runs: Collection[Document], wants: Sequence[Want], until: float) -> list[Claim]:
    """What the tokens of repeated wants hold already, leased anew, never shorter."""
    claims: list[Claim] = []
    for want in wants:
        if want.limit <= 0:
            continue
        mine = runs.find({"held": want.token}, UNSHOWN).sort("_id", 1)
        found = list(mine.limit(want.limit).batch_size(in_one(want.limit)))
        if found:
            ids = [document["_id"] for document in found]
            write(runs, [extending(ids, want.token, until)])
            claims += [
                claim_of(document)._replace(until=max(number_of(document.get("ripe"), 0.0), until))
                for document in found
            ]
    return claims


def extend(runs: Collection[Document], claims: Sequence[Claim], until: float) -> set[str]:
    """Extend the leases of claims; returns the ids still held."""
    by_token: dict[str, list[str]] = {}
    for claim in claims:
        by_token.setdefault(claim.token, []).append(claim.id)
    found = write(runs, [extending(ids, token, until) for token, ids in by_token.items()])
    if found == len(claims):
        return {claim.id for claim in claims}
    tokens = {(claim.id, claim.token) for claim in claims}
    ours = {"_id": {"$in": [claim.id for claim in claims]}, "held": {"$in": list(by_token)}}
    held = runs.find(ours, {"held": 1}, batch_size=in_one(len(claims)))
    return {each["_id"] for each in held if (each["_id"], each["held"]) in tokens}


def extending(ids: Sequence[str], token: str, until: float) -> UpdateOne | UpdateMany:
    """Extends the leases of runs that a token holds."""
    where = {"_id": ids[0] if len(ids) == 1 else {"$in": ids}, "held": token}
    change = {"$max": {"ripe": until, "ripe_at": date_of(until)}}
    return (UpdateOne if len(ids) == 1 else UpdateMany)(where, change)
