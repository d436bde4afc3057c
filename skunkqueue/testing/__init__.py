"""Checks for a store of your own: the contract suite and the random walk. And two helpers for your own tests.

The helpers: ``drain`` executes what was fired, ``reset`` forgets the runs of a ``memory://`` store. With pytest, the
fixture ``skunk`` does both, see ``skunkqueue.testing.skunk``.

A store is finished when the suite and the walk pass. With pytest, in a file of tests::

    import pytest
    from skunkqueue.testing import StoreContract, random_walk

    @pytest.fixture
    def store(tmp_path):
        store = MyPersister(tmp_path / "runs")      # fresh and empty for each test
        yield store
        store.close()

    class TestMyStore(StoreContract):
        def open_again(self, store):                # optional: a second handle to the same data
            return MyPersister(store.path)

        def begin(self, store):                     # if ``put`` takes a ``via``: a CallersTransaction
            ...

    @pytest.mark.parametrize("seed", range(40))
    def test_the_random_walk(store, seed):
        random_walk(store, seed=seed)

``pytest.register_assert_rewrite("skunkqueue.testing")`` in ``conftest.py`` makes its failures show both sides.
Without pytest: ``check_store(lambda: MyPersister(...))``. With Hypothesis installed,
``skunkqueue.testing.machine.shrinking_walk(lambda: MyPersister(...))`` gives the shortest walk that shows a fault.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from skunkqueue.persistence import Persister
from skunkqueue.testing.brief import BriefPromises
from skunkqueue.testing.claims import ClaimPromises, ExtendPromises
from skunkqueue.testing.desk import CancelPromises, CountPromises, GetPromises, PromotePromises, ReopenPromises
from skunkqueue.testing.discard import DiscardPromises
from skunkqueue.testing.housekeeping import HandlePromises, PurgePromises, WorkerPromises
from skunkqueue.testing.outcomes import CommitPromises, ExchangePromises
from skunkqueue.testing.pools import drain, reset
from skunkqueue.testing.puts import PutPromises
from skunkqueue.testing.via import ViaPromises
from skunkqueue.testing.waits import WaitPromises
from skunkqueue.testing.walk import random_walk

__all__ = ["StoreContract", "check_store", "drain", "promises", "random_walk", "reset"]


class StoreContract(
    PutPromises, ViaPromises, ClaimPromises, ExtendPromises, CommitPromises, ExchangePromises,
    CancelPromises, ReopenPromises, PromotePromises, DiscardPromises, GetPromises, BriefPromises, CountPromises,
    WorkerPromises, PurgePromises, WaitPromises, HandlePromises,
):  # fmt: skip
    """Every promise of the contract, one test each; ``store`` is a fixture that gives a fresh, empty store."""


def promises(contract: type[StoreContract] = StoreContract) -> list[str]:
    """The names of the tests, in the order of the contract."""
    return list(dict.fromkeys(name for part in contract.__mro__ for name in vars(part) if name.startswith("test_")))


def check_store(
    make_store: Callable[[], Persister],
    *,
    contract: type[StoreContract] = StoreContract,
    seeds: int = 40,
    steps: int = 150,
) -> list[str]:
    """Check every promise and walk ``seeds`` random walks, without pytest; prints a line for each.

    ``make_store`` returns a fresh, empty store at every call; it is closed afterwards. Returns the names of the checks
    that failed. Raises RuntimeError under ``python -O``, which leaves out the assertions.
    """
    if not __debug__:
        raise RuntimeError("check_store needs assertions; run it without -O")
    checks: dict[str, Callable[[Persister], None]] = {name: getattr(contract(), name) for name in promises(contract)}
    for seed in range(seeds):
        checks[f"test_random_walk_{seed}"] = lambda store, seed=seed: random_walk(store, seed=seed, steps=steps)  # type: ignore[misc]
    return [name for name, check in checks.items() if not _kept(name, check, make_store)]


def _kept(name: str, check: Callable[[Persister], None], make_store: Callable[[], Persister]) -> bool:
    sentence = name.removeprefix("test_").replace("_", " ")
    store = make_store()
    try:
        check(store)
    except Exception as error:
        sys.stdout.write(f"BROKEN  {sentence}: {type(error).__name__}: {error}\n")
        return False
    finally:
        store.close()
    sys.stdout.write(f"kept    {sentence}\n")
    return True
