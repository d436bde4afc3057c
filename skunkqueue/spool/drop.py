"""Drops a job file into a spool folder, so that an incomplete file is never read."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import time
from collections.abc import Mapping
from typing import Any

from skunkqueue.errors import WrongCall
from skunkqueue.ids import new_id
from skunkqueue.spool.contents import parse
from skunkqueue.spool.files import IN, Unreadable, is_ignored
from skunkqueue.spool.kept import move, numbered


def drop(path: str | os.PathLike[str], job: Mapping[str, Any]) -> str:
    """Write a job file safely into the spool folder at ``path``; returns the path of the file.

    It is written under another name, synced to the disk and renamed, so that it is never read incomplete, and survives
    a power cut once ``drop`` has returned. ``path`` may also name the file itself, ``/tmp/jobs/in/email``: if a job of
    that name waits already, the new one is called ``email.1``, and so on. Raises WrongCall for a job that could not be
    read again: no ``type``, or more than plain data, datetime, Decimal and UUID.
    """
    data = _written(job)
    folder, name = _place(os.fspath(path), job)
    os.makedirs(folder, exist_ok=True)
    draft = os.path.join(folder, f".{new_id(time.time())}.tmp")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
        target = next(path for each in numbered(name) if move(draft, path := os.path.join(folder, each)))
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise
    _sync(folder)
    return target


def _place(path: str, job: Mapping[str, Any]) -> tuple[str, str]:
    """The folder and the name for a job file."""
    folder, name = os.path.split(os.path.abspath(path))
    if os.path.basename(folder) == IN and not os.path.isdir(path):
        if is_ignored(name):
            raise WrongCall(f"{name} would be taken for a file that is not done: no dot before it, no .tmp, no .part")
        return folder, name
    if name != IN:
        folder = os.path.join(folder, name)
    kind = re.sub(r"[^A-Za-z0-9_-]", "-", str(job.get("type", "")))[:60]
    return os.path.join(folder, IN), f"{kind}-{new_id(time.time())}"


def _written(job: Mapping[str, Any]) -> bytes:
    if not isinstance(job, Mapping):
        raise WrongCall(f"a job is a dictionary with a 'type', got {job!r:.200}")
    try:
        data = pickle.dumps(dict(job), protocol=4)
        parse(data)
    except Unreadable as error:
        raise WrongCall(f"this job could not be read again: {error}") from error
    except Exception as error:
        raise WrongCall(f"this job cannot be written: {type(error).__name__}: {error}") from error
    return data


def _sync(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
