"""``skunkqueue.testing.drain``: running what was fired inside a test."""

from skunkqueue import SkunkQueue
from skunkqueue.testing import drain


def test_drain_runs_all_that_is_ripe_and_all_that_it_fires():
    queue = SkunkQueue("drained", "memory://drain")

    @queue.event(routes=["one"])
    def first(n):
        return n + 1

    @queue.event(routes=["two"])
    def second(n):
        return first.fire(n).id

    ran, later = second.fire(1), first.fire_at(60, 5)
    drain(queue, "one", "two")

    assert ran.state == "succeeded"
    assert queue.runs(route="one", state="succeeded")[0].result == 2
    assert later.state == "scheduled"


def test_drain_finds_the_routes_by_itself_and_gives_the_log():
    queue = SkunkQueue("drained", "memory://drain2")

    @queue.event(routes=["somewhere"])
    def fails():
        raise ValueError("boom")

    run = fails.fire()

    assert "ValueError: boom" in drain(queue)
    assert run.state == "failed"
