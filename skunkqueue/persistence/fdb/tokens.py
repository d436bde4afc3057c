"""What was given to each token: a claim whose answer was lost is repeated, and gets that first.

A transaction that claims writes one key for each token. It is cleared, or shortened, by the commits of those runs;
purge clears what is left of pools that died.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

import msgpack

from skunkqueue.persistence.fdb.step import Step, starting


def note(step: Step, token: str, until: float, ids: Sequence[str]) -> None:
    """Note that these runs were given to a token, beside what it had before."""
    step.tr[step.space.token(token) + os.urandom(8)] = _written(until, ids)


def given(step: Step, token: str) -> list[str]:
    """The ids that were given to a token and not committed since; some may be another's by now."""
    ids: list[str] = []
    for pair in step.tr.get_range(*starting(step.space.token(token))):
        ids += read_given(pair.value)[1]
    return ids


def forget(step: Step, over: Mapping[str, set[str]]) -> None:
    """Note that claims are over, by token."""
    asked = [(ids, step.tr.get_range(*starting(step.space.token(token)))) for token, ids in over.items()]
    for ids, found in asked:
        for pair in found:
            until, before = read_given(pair.value)
            left = [id for id in before if id not in ids]
            if not left:
                step.tr.clear(pair.key)
            elif len(left) < len(before):
                step.tr[pair.key] = _written(until, left)


def _written(until: float, ids: Iterable[str]) -> bytes:
    data: bytes = msgpack.packb((until, tuple(ids)), unicode_errors="surrogatepass")
    return data


def read_given(data: bytes) -> tuple[float, list[str]]:
    """Until when runs were leased at first, and their ids; nothing if the key is damaged."""
    try:
        until, ids = msgpack.unpackb(data, unicode_errors="surrogatepass")
        return float(until), [str(id) for id in ids]
    except Exception:
        return 0.0, []
