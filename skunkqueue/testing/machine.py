"""The random walk as a state machine of Hypothesis: a walk that finds a fault is shrunk to a few steps, and remembered.

It needs Hypothesis; nothing else in ``skunkqueue.testing`` does.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final

from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from skunkqueue.persistence import Persister
from skunkqueue.testing.pair import Call
from skunkqueue.testing.walk import VERBS, Walk


def shrinking_walk(make_store: Callable[[], Persister], **options: Any) -> None:
    """Walk many random walks, each on a fresh store; raises AssertionError with the shortest one that shows a fault.

    ``make_store`` gives a fresh, empty store at every call; it is closed after its walk. ``options`` are settings of
    Hypothesis, like ``max_examples``, ``stateful_step_count`` or ``derandomize``.
    """

    class OnThisStore(_StoreMachine):
        def __init__(self) -> None:
            super().__init__(make_store())

    run_state_machine_as_test(OnThisStore, settings=settings(**(DEFAULTS | options)))


DEFAULTS: dict[str, Any] = {
    "max_examples": 100,
    "stateful_step_count": 20,  # short walks shrink fast; the seeded ones are long
    "deadline": None,
    "report_multiple_bugs": False,  # one fault can fail in many ways, and the first is shrunk best
    "phases": [phase for phase in Phase if phase is not Phase.explain],
    "verbosity": Verbosity.quiet,  # the error has all that is needed
    "suppress_health_check": list(HealthCheck),  # a store on a disk or a server is slow, and that is no fault
}


SEEDS: Final[st.SearchStrategy[int]] = st.integers(0, 999)
"""One number determines all arguments of a step: a long walk is a short list of numbers, which shrinks fast."""


class RecordingWalk(Walk):
    """A walk whose errors list all calls that led to the difference."""

    def __init__(self, store: Persister) -> None:
        super().__init__(store)
        self.calls: list[Call] = []

    def begins(self, call: Call) -> None:
        self.calls.append(call)

    def where(self) -> str:
        return "after " + ",\n      ".join(map(str, self.calls))


class _StoreMachine(RuleBasedStateMachine):
    """One rule for each verb. After each step, both stores are compared as a whole."""

    def __init__(self, store: Persister) -> None:
        super().__init__()
        self.walk: RecordingWalk = RecordingWalk(store)

    @invariant()
    def both_are_the_same(self) -> None:
        self.walk.compare_all()

    def teardown(self) -> None:
        self.walk.store.close()


def _rule_of(verb: Callable[[Walk], None]) -> Callable[[_StoreMachine], None]:
    def step(self: _StoreMachine, seed: int) -> None:
        self.walk.take(verb, random.Random(seed))  # noqa: S311 - to be repeated, not to be secret

    step.__name__ = step.__qualname__ = verb.__name__
    ruled: Callable[[_StoreMachine], None] = rule(seed=SEEDS)(step)
    return precondition(lambda self: self.walk.can(verb))(ruled)


for _verb, _each in VERBS.items():
    setattr(_StoreMachine, _verb.__name__, _rule_of(_verb))
