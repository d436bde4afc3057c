"""The Redis store's scripts, assembled from the files in ``lua``; the layout of keys is in ``lua/shared.lua``."""

from __future__ import annotations

import hashlib
import re
from importlib.resources import files
from typing import Any, NamedTuple


class Script(NamedTuple):
    """A script's text and the digest it is called by."""

    text: bytes
    digest: str


def _load_scripts() -> dict[str, Script]:
    found = [piece for text in source() for piece in _pieces(text)]
    parts = {name: body for kind, name, body in found if kind == "part"}

    def join(named: re.Match[str]) -> str:
        return "".join(whole(parts[name]) for name in named[1].split())

    def whole(body: str) -> str:
        return re.sub(r"^ *-- with (.*)\n", join, body, flags=re.MULTILINE)

    return {name: _script(whole(body)) for kind, name, body in found if kind == "script"}


def source() -> list[str]:
    """The text of each file."""
    return [file.read_text() for file in files(__package__).joinpath("lua").iterdir() if file.name.endswith(".lua")]


def _pieces(text: str) -> list[tuple[str, str, str]]:
    """Its scripts and parts: which of the two it is, the name, and the text."""
    _, *pieces = re.split(r"^-- (part|script) (\w+)\n", text, flags=re.MULTILINE)
    return list(zip(pieces[::3], pieces[1::3], pieces[2::3], strict=True))


def _script(text: str) -> Script:
    return Script(text.encode(), hashlib.sha1(text.encode()).hexdigest())  # noqa: S324 - Redis names scripts so


SCRIPTS = _load_scripts()

Command = tuple[Any, ...]
"""A Redis command and its arguments."""


def call(script: str, key: str, *args: Any) -> Command:
    """The command that calls one of our scripts by its digest. The server answers NOSCRIPT if it does not know it."""
    return "EVALSHA", SCRIPTS[script].digest, "1", key, *args


def in_full(script: str, key: str, *args: Any) -> Command:
    """The command that calls one of our scripts by its text. The server then knows it until its scripts are flushed."""
    return "EVAL", SCRIPTS[script].text, "1", key, *args
