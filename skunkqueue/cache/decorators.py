"""What people write above a function: cached, and cacheBuilder with the names that gearmanny's workers use."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from datetime import timedelta
from functools import partial, wraps
from typing import Any, Final, ParamSpec, TypeVar

from skunkqueue.cache.answers import Cache, Washer
from skunkqueue.cache.key import CachedCall, question_of
from skunkqueue.cache.stores import Place
from skunkqueue.durations import Duration, seconds
from skunkqueue.errors import WrongCall

P = ParamSpec("P")
R = TypeVar("R")

DAY: Final = 86400.0
STALE: Final = timedelta(days=30)


def cached(
    url: str = "memory://",
    *,
    max_age: Duration = DAY,
    name: str | None = None,
    washer: Washer | None = None,
    keep_stale: Duration = STALE,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function so that an answer to the same arguments, at most ``max_age`` old, is given again.

    ``url`` says where answers are kept: ``mongodb://host/dbname``, ``redis://host/0``, ``sqlite:///file.db`` (relative
    to the current folder) or ``memory://``. They are found by ``name`` (the function's own, with its module) and the
    arguments by name, whatever their order; of a method, ``self`` is left out. ``washer`` gets a new answer before it
    is kept, and what it returns is the answer. None is no answer, and is not kept; where an older answer is still
    there (``keep_stale`` after its time), that is given instead. Callers that miss at the same time, on any machine,
    wait for the first. A store that is away is left out, with a line in the log ``skunkqueue.cache``.

    The function gets a method ``forget``, called with the same arguments. Durations are seconds or timedeltas. Raises
    WrongCall for a wrong URL, for what is no plain function, and, at a call, for arguments that cannot be compared.
    """
    place = Place(url, "skunkqueue", "cache")
    cache = Cache(place, washer=washer, keep_stale=seconds(keep_stale, "keep_stale"))
    age = seconds(max_age, "max_age")

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        return _wrap(function, cache, name, age)

    return decorate


def cacheBuilder(  # noqa: N802 - the name that users of gearmanny know
    host: str = "mongodb://localhost:27017/",
    dbname: str = "GEARMANCACHE",
    collection: str = "gearman_cache_table",
    DEBUG: int = 0,  # noqa: N803
    returnvalue_washer: Washer | None = None,
) -> Callable[..., Callable[[Callable[P, R]], Callable[P, R]]]:
    """A ``cachewrap(unique_name, max_days_age=1)`` that decorates functions, like ``cached``.

    ``host`` is a URL as ``cached`` takes it; a MongoDB's answers lie in ``collection`` of the database ``dbname``, and
    other stores name their keys or table by these. With ``DEBUG``, what is found or computed is printed on stderr.
    """
    place = Place(host, dbname, collection)
    cache = Cache(place, washer=returnvalue_washer, keep_stale=seconds(STALE, "stale"), debug=bool(DEBUG))

    def cachewrap(unique_name: str, max_days_age: float = 1) -> Callable[[Callable[P, R]], Callable[P, R]]:
        if not isinstance(unique_name, str) or not unique_name:
            raise WrongCall(f'cachewrap takes a name, as in @cachewrap("unique_name"); got {unique_name!r}')
        if (
            isinstance(max_days_age, bool)
            or not isinstance(max_days_age, int | float)
            or not 0 <= max_days_age < math.inf
        ):
            raise WrongCall(f"max_days_age is a number of days from 0 up; got {max_days_age!r}")
        age = seconds(min(max_days_age * DAY, 1e10), "max_days_age")
        return partial(_wrap, cache=cache, name=unique_name, age=age)

    return cachewrap


def _wrap(function: Callable[P, R], cache: Cache, name: str | None, age: float) -> Callable[P, R]:
    if not callable(function):
        raise WrongCall(f"only a function can be cached; got {function!r}")
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise WrongCall(f"{function.__qualname__} is no plain function: its answer cannot be kept")
    signature = inspect.signature(function)
    named = name or f"{function.__module__}.{function.__qualname__}"
    first = next(iter(signature.parameters), "")
    left_out = first if first in ("self", "cls") else ""

    def asked(args: Any, kwargs: Any) -> CachedCall:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return question_of(named, {name: value for name, value in bound.arguments.items() if name != left_out})

    @wraps(function)
    def answer(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            question = asked(args, kwargs)
        except TypeError:
            return function(*args, **kwargs)  # which says better what is wrong with the call
        found: R = cache.answer(question, age, lambda: function(*args, **kwargs))
        return found

    def forget(*args: Any, **kwargs: Any) -> None:
        """Forget the answer to these arguments."""
        cache.forget(asked((None, *args) if left_out else args, kwargs))

    answer.forget = forget  # type: ignore[attr-defined]
    return answer
