"""Checks the values of options and converts them. All functions raise WrongCall or another ValueError."""

from __future__ import annotations

from typing import Final

from skunkqueue.durations import seconds
from skunkqueue.envelope import State
from skunkqueue.errors import WrongCall
from skunkqueue.ids import check_id
from skunkqueue.printable import said
from skunkqueue.routes import base_route, check_name


def queue(value: str) -> str:
    """A queue's name."""
    return check_name(value, "queue")


def route(value: str) -> str:
    """A route to serve."""
    return check_name(value, "route")


def any_route(value: str) -> str:
    """A route to inspect, without its priority. A worker's own address is one too."""
    check_name(base_route(value).removeprefix("@"), "route")
    return base_route(value)


def run_id(value: str) -> str:
    """The id of a run."""
    return check_id(value)


def state(value: str) -> State:
    """A state as people see it."""
    from skunkqueue.options import choice

    return State(choice("state", value.lower(), [str(state) for state in State]))


def url(value: str) -> str:
    """A store's URL. One that cannot be right is refused before anything is created on disk."""
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


def duration(value: str, least: float = 0.0) -> float:
    """Seconds, as a number or a text like ``1h30m``."""
    try:
        number = seconds(_number(value), "it")
    except WrongCall:
        raise WrongCall(f"{said(value)} is no time: give seconds, or 5m, 1h30m") from None
    if number < least:
        raise WrongCall(f"{said(value)} is too short: at least {least:g} seconds")
    return number


def lease(value: str) -> float:
    """How long a run stays with a pool that vanished."""
    return duration(value, 0.1)


def _number(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value


def module(value: str) -> str:
    """The name of a module to import: as in Python, not a file."""
    name = value.removeprefix("./").removesuffix("/").removesuffix(".py").replace("/", ".")
    parts = name.split(".")
    if not all(parts) or any(part != part.strip() for part in parts):
        raise WrongCall(f"it is given the name of a module, like shop.jobs; got {said(value)}")
    if name != value:
        raise WrongCall(f"it is given the name of a module, not of a file: {name}, from the folder where that is found")
    return value


def listen(value: str) -> str:
    """Where to listen: HOST:PORT."""
    _, colon, port = value.rpartition(":")
    if not colon or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise WrongCall(f"where to listen is HOST:PORT, like 127.0.0.1:9191; got {said(value)}")
    return value
