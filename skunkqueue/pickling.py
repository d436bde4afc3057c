"""Pickles functions and values that are not plain. Its errors name the part that cannot be pickled."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from skunkqueue import culprit
from skunkqueue.envelope import PYTHON
from skunkqueue.errors import Corrupt, PayloadError, UnknownJob


def pickle_function(function: Any, parts: Callable[[], Iterable[culprit.Part]] = tuple) -> bytes:
    """Pickle a function and everything it uses, with its source if that is short, so that another process can call it.

    Raises PayloadError, which names the part that cannot be sent.
    """
    from skunkqueue import function_pickle  # late, here and below: most runs never need it

    return _dumped(function_pickle.dumps_function, function, "the function", parts)


def pickle_job(job: Any) -> bytes:
    """A job with its function, for ``unpickle``. Raises PayloadError."""
    return pickle_value(job, "the job", lambda: culprit.of_value(job))


def pickled_size(value: Any) -> int:
    """The size of the value when it is pickled by itself; 0 if it cannot be."""
    try:
        return len(pickle_value(value, "it", tuple))
    except PayloadError:
        return 0


def pickle_value(value: Any, what: str, parts: Callable[[], Iterable[culprit.Part]]) -> bytes:
    from skunkqueue import function_pickle

    return _dumped(function_pickle.dumps_value, value, what, parts)


def _dumped(dumps: Callable[[Any], bytes], value: Any, what: str, parts: Callable[[], Iterable[culprit.Part]]) -> bytes:
    try:
        return dumps(value)
    except Exception as error:
        blamed = _blamed(parts)
        raise PayloadError(f"{what} cannot be sent: {type(error).__name__}: {error}"[:1000] + blamed) from error


def _blamed(parts: Callable[[], Iterable[culprit.Part]]) -> str:
    try:
        found = culprit.failing(parts(), lambda value: pickled_size(value) > 0)
    except Exception:  # code of the user, a property or a __repr__
        return ""
    return f" ({found})"[:300] if found else ""


def unpickle(data: bytes) -> Any:
    """Read a pickled value. Its signature must have been verified before.

    Raises UnknownJob if another worker may be able to read it: it contains code of another Python version, or needs a
    module or attribute that is missing here. Raises Corrupt in all other cases.
    """
    return _unpickled(data, python_of(data) or PYTHON)[0]


def python_of(data: bytes) -> str:
    """The version of Python whose code a pickled value contains; empty if it contains none."""
    size = data[-1] if data else 0
    # A pickle ends with a dot. As a number, that is larger than the length of any version.
    version = data[-1 - size : -1] if size < ord(".") else b""
    return version.decode() if version.replace(b".", b"", 1).isdigit() else ""


def unpickle_function(data: bytes, python: str = PYTHON) -> tuple[Any, bytes]:
    """Read a function that was pickled by Python ``python``; returns it and its packed sources, for tracebacks."""
    return _unpickled(data, python)


def _unpickled(data: bytes, python: str) -> tuple[Any, bytes]:
    """The unpickled value, and the bytes after its pickle."""
    import io
    import pickle

    if python != PYTHON:
        raise UnknownJob(f"code of Python {python} cannot run here on Python {PYTHON}")
    file = io.BytesIO(data)
    try:
        return pickle.load(file), file.read()  # noqa: S301 - signed, and verified by whoever calls
    except (ImportError, AttributeError) as error:
        raise UnknownJob(f"a pickled value needs what is not here: {type(error).__name__}: {error}"[:300]) from error
    except Exception as error:
        raise Corrupt(f"a pickled value cannot be read: {type(error).__name__}: {error}"[:300]) from error
