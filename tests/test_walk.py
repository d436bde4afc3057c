"""The random walk as a state machine: no store differs, and what does differ is shrunk to a few calls."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import test_walk_faults as faults
from conftest import STORES, Opener

from skunkqueue.persistence import Persister
from skunkqueue.persistence.memory import MemoryPersister
from skunkqueue.testing import random_walk
from skunkqueue.testing.machine import _StoreMachine, shrinking_walk
from skunkqueue.testing.walk import VERBS

WALKS = 60


def fresh_memory(_: pytest.FixtureRequest) -> Opener:
    return MemoryPersister


def fresh_sqlite(request: pytest.FixtureRequest) -> Opener:
    from skunkqueue.persistence.sqlite import open_url

    folder: Path = request.getfixturevalue("tmp_path")
    numbers = iter(range(1_000_000))
    return lambda: open_url(f"sqlite:///{folder}/{next(numbers)}.db")


def fresh_redis(request: pytest.FixtureRequest) -> Opener:
    opener = STORES["redis"](request)
    server = request.getfixturevalue("shared_redis")

    def emptied() -> Persister:
        with server.client() as client:
            client.flushall()
        return opener()

    return emptied


@pytest.mark.slow
@pytest.mark.parametrize("fresh", [fresh_memory, fresh_sqlite, fresh_redis])
def test_the_shrinking_walk_finds_no_difference(
    fresh: Callable[[pytest.FixtureRequest], Opener], request: pytest.FixtureRequest
) -> None:
    shrinking_walk(fresh(request), max_examples=WALKS)


def calls_of(error: AssertionError) -> list[str]:
    """The verbs of the shrunk walk."""
    told = str(error).partition(":\n  ")[0].removeprefix("after ")
    return [call.partition("(")[0] for call in told.split(",\n      ")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "verbs"),
    [
        (faults.CountMissesCancels, {"put", "cancel"}),
        (faults.SecondBodyStands, {"put"}),
        (faults.UntouchedGoesBehind, {"put", "claim", "commit", "exchange"}),
    ],
)
def test_a_fault_is_shrunk_to_a_few_calls(fault: type[Persister], verbs: set[str]) -> None:
    """Mostly at the first try; where that ends in a dead end, from another walk."""
    for number in range(3):
        with pytest.raises(AssertionError) as found:
            shrinking_walk(fault, max_examples=1000, derandomize=not number, database=None)
        calls = calls_of(found.value)
        if len(calls) <= 6:
            break

    assert len(calls) <= 6
    assert set(calls) & verbs


def test_the_machine_has_a_rule_for_each_verb() -> None:
    rules: Any = _StoreMachine(MemoryPersister()).rules
    rules = rules() if callable(rules) else rules  # it was a method once

    assert {rule.function.__name__ for rule in rules} == {verb.__name__ for verb in VERBS}


OUTSIDE = {"url", "missing", "is_far", "wakes_one", "limits", "takes_via"} | {
    "wait", "rouse", "channel", "offset", "warnings", "close"
}  # fmt: skip
"""What is said of a store, and what only waits."""


def test_every_verb_of_the_contract_is_walked() -> None:
    """But for what only waits, and what is made of these."""
    asked: set[str] = set()

    class Listening(MemoryPersister):
        def __getattribute__(self, name: str) -> object:
            asked.add(name)
            return super().__getattribute__(name)

    for seed in range(3):
        random_walk(Listening(), seed=seed)
    verbs = {name for part in Persister.__mro__ for name in vars(part) if re.fullmatch(r"[a-z]\w*", name)}
    assert verbs - asked == OUTSIDE


def test_a_seed_gives_the_same_walk_every_time() -> None:
    def walked() -> Iterator[str]:
        with pytest.raises(AssertionError) as error:
            random_walk(faults.CommitWithoutToken(), seed=3)
        yield str(error.value)

    assert list(walked()) == list(walked())


def test_without_hypothesis_the_seeds_can_be_walked() -> None:
    code = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "from skunkqueue.persistence.memory import MemoryPersister\n"
        "from skunkqueue.testing import check_store\n"
        "assert check_store(MemoryPersister, seeds=1, steps=20) == []"
    )

    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, timeout=60)
