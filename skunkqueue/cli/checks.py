"""What the values of options may be, and what they become. All raise WrongCall or another ValueError."""

from __future__ import annotations

from typing import Final

from skunkqueue.envelope import State, base_route, check_name
from skunkqueue.errors import WrongCall


def queue(value: str) -> str:
    """A queue's name."""
    return check_name(value, "queue")


def route(value: str) -> str:
    """A route to serve."""
    return check_name(value, "route")


def any_route(value: str) -> str:
    """A route to look at: without its priority, and a worker's own address is one too."""
    check_name(base_route(value).removeprefix("@"), "route")
    return base_route(value)


def state(value: str) -> State:
    """A state as people see it."""
    from skunkqueue.options import choice

    return State(choice("state", value.lower(), [str(state) for state in State]))


def url(value: str) -> str:
    """A store's URL; that it cannot be one is said before anything is made on disk."""
    from skunkqueue.persistence.url import locate

    if "://" not in value:
        raise WrongCall("a URL is like sqlite:///file.db or redis://host:6379/0; what is given has no ://")
    return locate(value).url


LOG_FORMATS: Final = ("text", "json")


def log_format(value: str) -> str:
    """How the log is written."""
    if value not in LOG_FORMATS:
        raise ValueError(value)
    return value


def whole(value: str) -> int:
    """A whole number of 1 or more."""
    number = int(value)
    if number < 1:
        raise ValueError(value)
    return number


def duration(value: str) -> float:
    """Seconds, 0 or more."""
    number = float(value)
    if not number >= 0:
        raise ValueError(value)
    return number
