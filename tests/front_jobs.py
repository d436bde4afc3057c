"""Jobs in an importable module, for the tests of firing by reference."""

from __future__ import annotations

from skunkqueue import SkunkQueue

queue = SkunkQueue("demo", "memory://front-jobs")


class NotToday(Exception):
    pass


def ever_longer(attempt):
    return 10 * attempt


@queue.event(routes=["foo"], retry_on=NotToday, give_up_on=(KeyError, ValueError), backoff=ever_longer)
def add(first, second):
    """Add two things."""
    return first + second


class Group:
    @staticmethod
    @queue.event
    def inside(value):
        return value
