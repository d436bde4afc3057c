"""Puts envelopes so that one that the store refuses never stops the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf

from skunkqueue.envelope import Envelope
from skunkqueue.errors import StoreRefused
from skunkqueue.persistence import Limits, Persister
from skunkqueue.persistence.halves import isolated


def put(store: Persister, envelopes: Sequence[Envelope]) -> list[str]:
    """Like ``store.put``, in as many calls as the store's limits require.

    Raises StoreRefused, which names the envelopes that were not stored; the others were stored.
    """
    if len(envelopes) == 1 and (store.limits.body or inf) >= len(envelopes[0].body):
        return store.put(envelopes)
    refused = _too_large(store, envelopes)
    fitting = [envelope for envelope in envelopes if envelope.id not in refused] if refused else envelopes
    ids: dict[str, str] = {}
    for part in _parts(fitting, store.limits):
        _put(store, part, ids, refused)
    if refused:
        raise _refusal(store, refused)
    return [ids[envelope.id] for envelope in envelopes]


def _too_large(store: Persister, envelopes: Sequence[Envelope]) -> dict[str, str]:
    most = store.limits.body
    if most is None:
        return {}
    return {
        envelope.id: f"its arguments are {len(envelope.body):,} bytes, the store takes {most:,}"
        for envelope in envelopes
        if len(envelope.body) > most
    }


def _parts(envelopes: Sequence[Envelope], limits: Limits) -> Iterator[Sequence[Envelope]]:
    """The envelopes in order, split into parts that one call may carry."""
    if limits.items is None and limits.batch is None:
        yield envelopes
        return
    start = size = 0
    for n, envelope in enumerate(envelopes):
        too_many = limits.items is not None and n - start >= limits.items
        if n > start and (too_many or (limits.batch is not None and size + len(envelope.body) > limits.batch)):
            yield envelopes[start:n]
            start, size = n, 0
        size += len(envelope.body)
    yield envelopes[start:]


def _put(store: Persister, part: Sequence[Envelope], ids: dict[str, str], refused: dict[str, str]) -> None:
    """Put these; an envelope that is refused on its own is added to ``refused``."""

    def put_some(some: Sequence[Envelope]) -> None:
        ids.update(zip([envelope.id for envelope in some], store.put(some), strict=True))

    _, failed = isolated(put_some, part, of_one=StoreRefused)
    refused.update((envelope.id, str(error)) for envelope, error in failed)


def _refusal(store: Persister, refused: dict[str, str]) -> StoreRefused:
    id, why = next(iter(refused.items()))
    others = f" (and {len(refused) - 1} others)" if len(refused) > 1 else ""
    error = StoreRefused(f"{store.url} does not take run {id}{others}: {why}")
    error.refused = refused
    return error
