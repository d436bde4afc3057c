"""How a job is pickled: by its name if that leads back to it, else with its function.

A job of a script is pickled both ways. Processes that multiprocessing starts have loaded the script too, and find the
job there. Any other process uses the function in the pickle.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from skunkqueue import pickling
from skunkqueue.errors import PayloadError
from skunkqueue.importing import BY_VALUE
from skunkqueue.lookup import follow
from skunkqueue.stub import code_of

if TYPE_CHECKING:
    from skunkqueue.job import Job


def reduced(job: Job[Any, Any], module: str, qualname: str) -> Any:
    """What ``__reduce__`` of a job returns. Our own pickler uses ``reduced_by_value`` instead."""
    if job.is_importable():
        return by_name, (module, qualname)
    try:
        data, why = pickling.pickle_job(job), ""
    except PayloadError as error:
        data, why = b"", str(error)
    return _by_name_or_value, (module, qualname, _origin(job), data, why)


def by_name(module: str, qualname: str) -> Any:
    """Find a job that was pickled by its name."""
    from importlib import import_module

    found = follow(import_module(module), qualname)
    if not _is_job(found):
        raise AttributeError(f"there is no job {module}:{qualname} here")
    return found


def _by_name_or_value(module: str, qualname: str, origin: tuple[str, int] | None, data: bytes, why: str) -> Any:
    found = follow(sys.modules.get("__main__" if module in BY_VALUE else module), qualname)
    if origin is not None and _is_job(found) and _origin(found) == origin:
        return found
    if not data:
        raise PayloadError(why)
    return pickling.unpickle(data)


def _is_job(found: Any) -> bool:
    from skunkqueue.job import Job

    return type(found) is Job


def _origin(job: Job[Any, Any]) -> tuple[str, int] | None:
    """The file's name and the line of the function: another script may have a job of the same name."""
    code = code_of(job.function)
    return None if code is None else (os.path.basename(code.co_filename), code.co_firstlineno)
