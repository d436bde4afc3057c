"""The names of routes: what people may call them, and the sub-routes for priorities, keys and addresses."""

from __future__ import annotations

import re
from typing import Final

from skunkqueue.errors import WrongCall
from skunkqueue.printable import said

_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,100}")

HIGH: Final = "^high"
LOW: Final = "^low"
PRIORITIES: Final = {"high": HIGH, "normal": "", "low": LOW}


def check_name(name: object, what: str) -> str:
    """Check the name of a queue or route, as people give it. Raises WrongCall."""
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    raise WrongCall(f"a {what} is 1 to 100 letters, digits or any of _ . : - ; got {said(name)}")


def base_route(route: str) -> str:
    """``foo`` of ``foo^high``."""
    return route.partition("^")[0]


def is_internal(route: str) -> bool:
    """Whether what lies on a route is no run of a job: a schedule, or a pause. People's names hold no ``~``."""
    return "~" in route


TURNS: Final = "^~turns"
"""What follows a route in the name of the sub-route on which the turns of its limited runs lie."""
_KEYED: Final = "."
"""Between the priority and the key in the name of a sub-route for the runs of one key."""


def keyed(route: str, key: str) -> str:
    """The sub-route of a route, with its priority, for the limited runs of one key: ``foo^.key``, ``foo^high.key``."""
    return f"{route}{'' if '^' in route else '^'}{_KEYED}{key}"


def key_of_route(route: str) -> str:
    """The key of a sub-route made by ``keyed``; empty for any other route."""
    return "" if "^" not in route else route.partition("^")[2].partition(_KEYED)[2]


def shown_route(route: str) -> str:
    """A route with its priority as people know it, without the key of a limit: ``foo^high`` of ``foo^high.key``."""
    if "^" not in route:
        return route
    base, _, rest = route.partition("^")
    priority = rest.partition(_KEYED)[0]
    return f"{base}^{priority}" if priority else base


def keyed_routes(route: str, key: str) -> tuple[str, ...]:
    """The sub-routes of a route for the runs of one key, one for each priority, in the order they are served."""
    return tuple(keyed(each, key) for each in with_priorities(route))


def woken_by(route: str) -> tuple[str, ...]:
    """The sub-routes of a route on which what is put is news for who waits for work on it."""
    return (*with_priorities(route), route + TURNS)


def with_priorities(route: str) -> tuple[str, ...]:
    """The sub-routes of a route, one for each priority, in the order they are served."""
    return (route + HIGH, route, route + LOW)


def address(worker: str) -> str:
    """The route that only this worker serves."""
    return "@" + worker
