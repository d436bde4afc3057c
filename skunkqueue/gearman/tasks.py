"""What a BaseWorker exports: its task_xxx methods by the names that clients call, and the help about them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final

from skunkqueue.errors import WrongCall
from skunkqueue.gearman.protocol import check_function

PREFIX: Final = "task_"
NO_DESCRIPTION: Final = "<No description>"


def tasks_of(worker: object, name: str) -> dict[str, Callable[..., Any]]:
    """The tasks by the names that clients call: ``task_echo`` of a worker named "w" is ``w_echo``.

    Raises WrongCall for a name that no server takes, and for a ``task_xxx`` that cannot be called.
    """
    found = {}
    for attribute in dir(worker):
        if attribute.startswith(PREFIX):
            task = getattr(worker, attribute)
            if not callable(task):
                raise WrongCall(f"{attribute} of {type(worker).__name__} is exported, so it is a method; got {task!r}")
            found[check_function(f"{name}_{attribute.removeprefix(PREFIX)}")] = task
    return found


def help_about(tasks: Mapping[str, Callable[..., Any]]) -> dict[str, Any]:
    """For each task its ``description`` and its ``input``: by argument what JSON can tell of it."""
    return {name: {"description": _description(task), "input": _input(task)} for name, task in tasks.items()}


def _description(task: Callable[..., Any]) -> str:
    return (task.__doc__ or "").strip() or NO_DESCRIPTION


def _input(task: Callable[..., Any]) -> dict[str, Any]:
    try:
        parameters = inspect.signature(task).parameters.values()
    except (TypeError, ValueError):  # written in C, for instance
        return {}
    return {parameter.name: _about(parameter) for parameter in parameters if parameter.kind is not _POSITIONALS}


_POSITIONALS: Final = inspect.Parameter.VAR_POSITIONAL  # nobody can send them
_KINDS: Final = {inspect.Parameter.KEYWORD_ONLY: "keyword only", inspect.Parameter.VAR_KEYWORD: "any others"}


def _about(parameter: inspect.Parameter) -> dict[str, Any]:
    """``default`` and ``required``; where there is something to tell, also ``kind`` and ``annotation``."""
    has_default = parameter.default is not parameter.empty
    is_any = parameter.kind is inspect.Parameter.VAR_KEYWORD
    about: dict[str, Any] = {
        "default": as_json(parameter.default) if has_default else None,
        "required": not (has_default or is_any),
    }
    if parameter.kind in _KINDS:
        about["kind"] = _KINDS[parameter.kind]
    if parameter.annotation is not parameter.empty:
        about["annotation"] = _annotation(parameter.annotation)
    return about


def _annotation(annotation: Any) -> str:
    """As it is written: a text where the module imports ``annotations`` from ``__future__``."""
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def as_json(value: Any) -> Any:
    """The value, where JSON gives back the same; else its ``repr``."""
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float and abs(value) < float("inf"):
        return value
    if type(value) is list:
        return [as_json(each) for each in value]
    if type(value) is dict and all(type(key) is str for key in value):
        return {key: as_json(each) for key, each in value.items()}
    return repr(value)
