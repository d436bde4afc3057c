"""Parses the URL of a FoundationDB: which cluster file, and which directory in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

from skunkqueue.errors import WrongCall
from skunkqueue.persistence.url import url_path, without_secrets

PREFIX: Final = "skunkqueue"
"""The directory where the URL names none."""

TIMEOUT: Final = 5.0
"""Seconds after which a call gives up."""

PARAMETERS: Final = ("prefix", "tenant", "timeout")


class Target(NamedTuple):
    """Where a store is. ``cluster_file`` is None for the platform's default one, ``path`` its directory."""

    url: str
    cluster_file: str | None
    path: tuple[str, ...]
    tenant: str | None = None
    timeout: float = TIMEOUT

    @property
    def directory(self) -> str:
        """The directory as people write it."""
        return "/".join(self.path)


def parse_url(url: str) -> Target:
    """Parse ``fdb://`` or ``fdb:///path/to/fdb.cluster?prefix=name``. Opens nothing. Raises WrongCall."""
    given = _parameters(url)
    file = url_path(url)
    if file and not file.startswith("/"):
        raise WrongCall(
            f"an fdb URL is fdb:// for the default cluster file, or fdb:///path/to/fdb.cluster with the path from the "
            f"root; got {without_secrets(url)}"
        )
    path = tuple(given.get("prefix", PREFIX).strip("/").split("/"))
    if not all(path):
        raise WrongCall(f"prefix is a name, or names joined by / ; got {given['prefix']!r}")
    if "tenant" in given and not given["tenant"]:
        raise WrongCall("tenant is the name of a tenant of the cluster; it is empty")
    return Target(without_secrets(url), file or None, path, given.get("tenant"), _timeout(given))


def _parameters(url: str) -> Mapping[str, str]:
    given = dict(parse_qsl(url.partition("?")[2], keep_blank_values=True))
    if not given.keys() <= set(PARAMETERS):  # whose name is not repeated, as it may be a piece of somebody's password
        raise WrongCall(f"an fdb URL has the parameters {', '.join(PARAMETERS)} and no others")
    return given


def _timeout(given: Mapping[str, str]) -> float:
    text = given.get("timeout", str(TIMEOUT))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise WrongCall(f"timeout is a number of seconds from 0.1 to 3600; got {text!r}")
    return seconds
