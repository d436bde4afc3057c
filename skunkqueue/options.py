"""The options of a job. They are checked where they are given: a wrong one fails there, not later in a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypedDict, Union

from skunkqueue.codec import SERIALIZERS
from skunkqueue.durations import Duration, seconds
from skunkqueue.envelope import DAY, Seal
from skunkqueue.errors import WrongCall
from skunkqueue.limits.limit import Fair, Limit
from skunkqueue.printable import said
from skunkqueue.routes import PRIORITIES, check_name

if TYPE_CHECKING:
    from skunkqueue.policy import Backoff

DEFAULT_ROUTE: Final = "default"
FAILED_KEPT: Final = 7 * DAY
"""Failed runs are kept at least this long, so that people can still inspect them."""

MOST_RETRIES: Final = (1 << 31) - 1
"""A larger number is reduced to this one, which no run reaches."""

Pause = Union[Duration, "Backoff", Callable[[int], Duration]]
Errors = type[BaseException] | tuple[type[BaseException], ...]


Priority = Literal["high", "normal", "low"]
Serializer = Literal["auto", "plain"]
QueueType = Literal["direct", "broadcast"]
Several = tuple[str, str, *tuple[str, ...]]
"""Two routes or more, which type checkers can tell from one."""


class GivenRoutesApart(TypedDict, total=False):
    """Options as people write them, at the decorator or in ``job.options``, without the routes."""

    retries: int
    backoff: Pause
    timeout: Duration | None
    expires: Duration | None
    keep: Duration | None
    priority: Priority
    serializer: Serializer
    at_most_once: bool
    retry_on: Errors
    give_up_on: Errors
    window: Duration | None
    debounce: Duration | None
    limit: Limit | None
    fair_by: Callable[..., str | int] | None


class Given(GivenRoutesApart, total=False):
    """Options as people write them, at the decorator or in ``job.options``."""

    routes: str | Iterable[str]


class GivenToEvent(Given, total=False):
    """What the decorator takes beside these: when the job is to run again and again."""

    unique: Callable[..., str | int] | None
    every: Any
    zone: Any
    missed: str
    overlap: str


class Options(NamedTuple):
    """Options checked, durations in seconds."""

    routes: tuple[str, ...] = (DEFAULT_ROUTE,)
    retries: int = 0
    first: float = 1.0
    factor: float = 2.0
    limit: float = 600.0
    jitter: bool = True
    timeout: float | None = None
    expires: float | None = None
    keep: float = DAY
    priority: str = "normal"
    serializer: str = "auto"
    at_most_once: bool = False
    retry_on: tuple[type[BaseException], ...] = ()
    give_up_on: tuple[type[BaseException], ...] = ()
    delay_of: Callable[[int], Any] | None = None
    unique_of: Callable[..., Any] | None = None
    window: float | None = None
    debounce: float | None = None
    limited: Limit | None = None

    def changed(self, given: Mapping[str, Any]) -> Options:
        """These options, with some of them replaced. Raises WrongCall."""
        unknown = [name for name in given if name not in _CHECKS]
        if unknown:
            raise WrongCall(_no_option(unknown[0]))
        if given.get("limit") is not None and given.get("fair_by") is not None:
            raise WrongCall(
                "limit and fair_by both say whose turn it is, the keys of a limit take turns: give one of them"
            )
        checked: dict[str, Any] = {}
        for name, value in given.items():
            checked.update(_CHECKS[name](value))
        changed = self._replace(**checked)
        if changed.window is not None and changed.debounce is not None:
            raise WrongCall("window lets the first run of a key run, debounce the last: give one of them")
        return changed

    def callables(self) -> tuple[Any, Any, Any]:
        """The options that only the job itself can give a worker: ``retry_on``, ``give_up_on``, ``delay_of``."""
        return self.retry_on, self.give_up_on, self.delay_of

    def is_spaced(self) -> bool:
        """Whether the arguments of a call, or earlier calls, say when it runs or whether it does."""
        return self.unique_of is not None or self.window is not None or self.debounce is not None

    def seal(self) -> Seal:
        """The options that the pool needs; it never imports a job."""
        failed = max(self.keep, FAILED_KEPT)
        backoff = (self.first, self.factor, self.limit, self.jitter)
        terms = None if self.limited is None else self.limited.terms
        return Seal(self.retries, *backoff, self.timeout, self.at_most_once, failed, terms)


OF_EVENT: Final = ("name", "every", "zone", "missed", "overlap")
"""What only ``event`` takes."""


def _no_option(name: str) -> str:
    """The sentence about an option that there is not."""
    from skunkqueue.elsewhere import OF_OPTIONS  # late: only mistakes need it

    if name in OF_EVENT:
        return f"{name!r} is only for the decorator of a job, @queue.event({name}=...)"
    meant = OF_OPTIONS.get(name)
    hint = did_you_mean(name, [*_CHECKS, *OF_EVENT], 0.6) if meant is None else f"; here it is {meant}"
    return f"there is no option {name!r}{hint}"


def did_you_mean(word: object, known: Iterable[str], least: float = 0.5) -> str:
    """The end of an error about an unknown word: the closest known word, or all of them."""
    import difflib  # late: only mistakes need it

    names = sorted(map(str, known))
    close = difflib.get_close_matches(str(word), names, n=1, cutoff=least)
    return f"; did you mean {close[0]!r}?" if close else f"; choose one of {', '.join(names)}"


def choice(what: str, value: object, known: Iterable[str]) -> str:
    """Check that the value is one of the known words. Raises WrongCall."""
    if isinstance(value, str) and value in known:
        return str(value)
    raise WrongCall(f"there is no {what} {said(value)}{did_you_mean(value, known)}")


def _routes(value: Any) -> dict[str, Any]:
    routes = (value,) if isinstance(value, str) else value
    if not isinstance(routes, list | tuple | set | frozenset) or not routes:
        raise WrongCall(f"routes is a name or a list of names, at least one; got {said(value)}")
    ordered = sorted(routes, key=str) if isinstance(routes, set | frozenset) else routes
    return {"routes": tuple(dict.fromkeys(check_name(route, "route") for route in ordered))}


def _retries(value: Any) -> dict[str, Any]:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise WrongCall(f"retries is a whole number from 0 up; got {said(value)}")
    return {"retries": min(value, MOST_RETRIES)}


def _backoff(value: Any) -> dict[str, Any]:
    if isinstance(value, int | float | timedelta | str):
        return {"first": seconds(value, "backoff"), "delay_of": None}
    from skunkqueue.policy import Backoff  # late: it costs more to import than all the rest here

    if isinstance(value, Backoff):
        first, limit = seconds(value.first, "first of Backoff"), seconds(value.limit, "limit of Backoff")
        return {"first": first, "factor": value.factor, "limit": limit, "jitter": value.jitter, "delay_of": None}
    if callable(value):
        return {"delay_of": value}
    raise WrongCall(f"backoff is the first delay, a Backoff, or a function of the attempt; got {said(value)}")


def _timeout(value: Any) -> dict[str, Any]:
    timeout = None if value is None else seconds(value, "timeout")
    if timeout == 0:
        raise WrongCall("timeout is more than 0 seconds; for no timeout give None")
    return {"timeout": timeout}


def _expires(value: Any) -> dict[str, Any]:
    return {"expires": None if value is None else seconds(value, "expires")}


def _keep(value: Any) -> dict[str, Any]:
    return {"keep": DAY if value is None else seconds(value, "keep")}


def _once(value: Any) -> dict[str, Any]:
    if not isinstance(value, bool):
        raise WrongCall(f"at_most_once is True or False; got {said(value)}")
    return {"at_most_once": value}


def _unique_of(value: Any) -> dict[str, Any]:
    if value is not None and not callable(value):
        raise WrongCall(
            f"unique is a function that makes a key of a call's arguments; got {said(value)}; "
            "a key for one call is given with job.options(unique=...)"
        )
    return {"unique_of": value}


def _apart(name: str, value: Any) -> dict[str, Any]:
    apart = None if value is None else seconds(value, name)
    if apart == 0:
        raise WrongCall(f"{name} is more than 0 seconds; for none give None")
    return {name: apart}


def _limit(value: Any) -> dict[str, Any]:
    if value is not None and not isinstance(value, Limit):
        raise WrongCall(f"limit is a Limit, such as Limit(5) or Limit(100, per=60); got {said(value)}")
    return {"limited": value}


def _fair_by(value: Any) -> dict[str, Any]:
    if value is not None and not callable(value):
        raise WrongCall(f"fair_by is a function of the call's arguments that says whose run it is; got {said(value)}")
    return {"limited": None if value is None else Fair(value)}


def _errors(name: str) -> Callable[[Any], dict[str, Any]]:
    def check(value: Any) -> dict[str, Any]:
        types = tuple(value) if isinstance(value, tuple | list) else (value,)
        if not all(isinstance(one, type) and issubclass(one, BaseException) for one in types):
            raise WrongCall(f"{name} is an exception type or a tuple of them; got {said(value)}")
        return {name: types}

    return check


_CHECKS: Final[Mapping[str, Callable[[Any], dict[str, Any]]]] = {
    "routes": _routes,
    "retries": _retries,
    "backoff": _backoff,
    "timeout": _timeout,
    "expires": _expires,
    "keep": _keep,
    "priority": lambda value: {"priority": choice("priority", value, PRIORITIES)},
    "serializer": lambda value: {"serializer": choice("serializer", value, SERIALIZERS)},
    "at_most_once": _once,
    "retry_on": _errors("retry_on"),
    "give_up_on": _errors("give_up_on"),
    "unique": _unique_of,
    "window": lambda value: _apart("window", value),
    "debounce": lambda value: _apart("debounce", value),
    "limit": _limit,
    "fair_by": _fair_by,
}
