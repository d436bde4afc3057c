"""A wrong call fails early, with a sentence that says what was wanted and what was found."""

from __future__ import annotations

import pytest

from skunkqueue import SkunkQueue, WrongCall
from skunkqueue.testing import drain
from skunkqueue.worker import WorkerPool

CALLS = {
    "an option by its name elsewhere": (lambda queue: queue.event(retry=3), "here it is retries="),
    "an option misspelt": (lambda queue: queue.event(timout=3), "did you mean 'timeout'"),
    "a number of calls": (lambda queue: queue.event(name="abs")(abs).fire_many(3), r"fire_many takes calls.*got 3"),
    "a number of workers": (lambda queue: WorkerPool(queue, 3), "routes are a name or a list of names.*got 3"),
    "routes that are numbers": (lambda queue: WorkerPool(queue, ["foo", 3]), "got 3"),
    "the name of a queue": (lambda queue: drain("demo"), "drain takes a SkunkQueue.*got 'demo'"),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_wrong_call_says_what_was_wanted(call):
    wrong, sentence = CALLS[call]
    with SkunkQueue("demo", "memory://sentences") as queue, pytest.raises(WrongCall, match=sentence):
        wrong(queue)
