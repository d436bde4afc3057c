"""The options that commands share, checked as they are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from skunkqueue.cli import checks
from skunkqueue.errors import WrongCall

Command = TypeVar("Command", bound=Callable[..., Any])


def checked(check: Callable[[str], Any]) -> Callable[[str], Any]:
    """A converter for click, from one of our checks: a WrongCall becomes an error of click."""

    def convert(value: str) -> Any:
        try:
            return check(value)
        except WrongCall as error:
            raise click.BadParameter(str(error)) from error

    return convert


QUEUE = checked(checks.queue)
ROUTE = checked(checks.route)
ANY_ROUTE = checked(checks.any_route)
RUN_ID = checked(checks.run_id)
STATE = checked(checks.state)
URL = checked(checks.url)
DURATION = checked(checks.duration)
LEASE = checked(checks.lease)
LISTEN = checked(checks.listen)
MODULE = checked(checks.module)


def at_least(least: float) -> Callable[[str], Any]:
    """A duration that is not too short."""
    return checked(lambda value: checks.duration(value, least))


def url_option(command: Command) -> Command:
    """``--url``, else SKUNKQUEUE_URL, else (as None) the embedded file."""
    return click.option(
        "--url",
        type=URL,
        envvar="SKUNKQUEUE_URL",
        metavar="URL",
        help="The store: sqlite:///file.db, redis://host:6379/0 ... [SKUNKQUEUE_URL, else your own file]",
    )(command)


def log_format_option(command: Command) -> Command:
    """``--log-format``."""
    return click.option(
        "--log-format",
        type=click.Choice(checks.LOG_FORMATS),
        default="text",
        show_default=True,
        help="A line for people, or a JSON document a line for programs.",
    )(command)


def queue_option(command: Command) -> Command:
    """``-q`` as a filter."""
    return click.option("-q", "--queue", type=QUEUE, metavar="QUEUE", help="Only of this queue.")(command)


def json_option(command: Command) -> Command:
    """``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON document, for programs.")(command)


def desk_options(command: Command) -> Command:
    """The options that all commands of the desk take."""
    return queue_option(url_option(json_option(command)))
