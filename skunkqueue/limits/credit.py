"""How many runs a rate lets start: a credit that grows with time. Times in, numbers out.

In any time of ``per`` seconds at most ``count`` runs start, and ``burst - 1`` more. Claims come late by moments, and
runs start late by moments after their claim: so the credit may grow a little beyond ``burst``, and grows a little more
slowly than ``count`` in ``per`` seconds, such that this holds all the same.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgpack

from skunkqueue.limits.limit import Terms

LATE: Final = 0.25
SHARE: Final = 0.045
"""Seconds by which claims and starts may be late; or this share of ``per``, where that is less."""
EXACT: Final = 1e-9


class Credit(NamedTuple):
    """So many runs could start at a time ``at``, under these terms."""

    left: float
    at: float
    terms: Terms

    @property
    def _late(self) -> float:
        return min(LATE, SHARE * self.terms.per)

    @property
    def _most(self) -> float:
        return self.terms.burst + self.terms.most * self._late / self.terms.per

    @property
    def _rate(self) -> float:
        most, per, _ = self.terms
        return most * (1 - self._late / per) / (per + self._late)

    def then(self, now: float) -> Credit:
        """What it has become."""
        left = min(self._most, self.left + max(0.0, now - self.at) * self._rate)
        return self._replace(left=left, at=max(now, self.at))

    def under(self, terms: Terms) -> Credit:
        """The same under other terms."""
        changed = self._replace(terms=terms)
        return changed._replace(left=min(self.left, changed._most))

    @property
    def whole(self) -> int:
        """How many may start now."""
        return max(0, int(self.left + EXACT))

    @property
    def is_full(self) -> bool:
        """Whether a new one would allow no more."""
        return self.left + EXACT >= self.terms.burst

    def less(self, used: int) -> Credit:
        return self._replace(left=self.left - used)

    def when(self, left: float) -> float:
        """When so many may start."""
        return self.at + max(0.0, left - self.left) / self._rate

    def packed(self) -> bytes:
        data: bytes = msgpack.packb((self.left, self.at, *self.terms))
        return data


def credit_of(terms: Terms, notes: bytes, now: float) -> Credit:
    """The credit that a permit's notes hold; where they hold none, that of a key that was not used for long."""
    try:
        left, at, count, per, burst = msgpack.unpackb(notes)
        found = Credit(float(left), float(at), Terms(int(count), float(per), int(burst)))
        return found.then(now) if found.terms.is_rate else Credit(float(terms.burst), now, terms)
    except Exception:
        return Credit(float(terms.burst), now, terms)
