"""Where stores are found: what people write, turned into one URL, and the store at it opened."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from skunkqueue.errors import WrongCall
from skunkqueue.persistence import Persister


class Address(NamedTuple):
    """Where a store is: the module that speaks to it, and its URL."""

    backend: str
    url: str


BACKENDS: Mapping[str, tuple[str, str]] = {
    # backend: (module, what to install)
    "memory": ("skunkqueue.persistence.memory", ""),
    "sqlite": ("skunkqueue.persistence.sqlite", ""),
    "redis": ("skunkqueue.persistence.redis", "skunkqueue[redis]"),
}

SCHEMES: Mapping[str, str] = {
    "memory": "memory",
    "sqlite": "sqlite",
    "redis": "redis",
    "rediss": "redis",
    "redis+unix": "redis",
    "unix": "redis",
    "redis+sentinel": "redis",
    "rediss+sentinel": "redis",
    "redis+cluster": "redis",
    "rediss+cluster": "redis",
}


def get_backend(conn_url: str | None = None, backend: str | None = None, dbname: Any = None) -> Persister:
    """The store at a URL, or at a ``default_cfg``'s (backend, conn_url, dbname). Imports only the driver named.

    With nothing given: the environment variable SKUNKQUEUE_URL, else the embedded file of this user. Raises WrongCall.
    """
    found = locate(conn_url, backend, dbname)
    module_name, package = BACKENDS[found.backend]
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise WrongCall(f"the {found.backend} store needs its driver: pip install '{package}' ({error})") from error
    opened: Persister = module.open_url(found.url)
    return opened


def locate(conn_url: str | None = None, backend: str | None = None, dbname: Any = None) -> Address:
    """Turn what people write into one URL. Raises WrongCall for a scheme or backend that is not there."""
    if conn_url is None and backend is None:
        conn_url = os.environ.get("SKUNKQUEUE_URL") or "sqlite://"
    if conn_url is not None and "://" in conn_url:
        return _from_url(conn_url, backend)
    name = backend or "sqlite"
    if name not in BACKENDS:
        raise WrongCall(f"there is no backend {name!r}; there are {', '.join(BACKENDS)}")
    return Address(name, _URL_OF[name](conn_url or "", dbname))


def _from_url(url: str, backend: str | None) -> Address:
    scheme = url.partition("://")[0].lower()
    name = SCHEMES.get(scheme)
    if name is None:
        raise WrongCall(f"there is no store for {scheme}:// ; there are {', '.join(s + '://' for s in SCHEMES)}")
    if backend is not None and backend != name:
        raise WrongCall(f"the URL is one of {name}, but backend is {backend!r}; give one of the two")
    return Address(name, url)


def _sqlite_url(conn_url: str, dbname: Any) -> str:
    """``conn_url`` is a folder (the user's data folder when empty), ``dbname`` a file in it."""
    from urllib.parse import quote  # late, here and below: a worker process opens no store

    path = os.path.join(conn_url, str(dbname)) if conn_url and dbname else conn_url or str(dbname or "")
    return f"sqlite:///{quote(path)}" if path else "sqlite://"


def _memory_url(conn_url: str, dbname: Any) -> str:
    from urllib.parse import quote

    return f"memory://{quote(str(dbname or conn_url or ''))}"


def _redis_url(conn_url: str, dbname: Any) -> str:
    return f"redis://{conn_url or 'localhost:6379'}/{0 if dbname is None else dbname}"


_URL_OF: Mapping[str, Callable[[str, Any], str]] = {
    "memory": _memory_url,
    "sqlite": _sqlite_url,
    "redis": _redis_url,
}

_PASSWORD = re.compile(r"(?<=://)([^/@]*)@")
_SECRETS = re.compile(r"(?i)([?&](?:password|passwd|token|secret|username|ssl_keyfile_password)=)[^&]*")


def without_secrets(url: str) -> str:
    """The URL with user, password and secret parameters left out: for logs, errors and pickles."""
    return _SECRETS.sub(r"\1***", _PASSWORD.sub("", url))


def url_path(url: str) -> str:
    """What stands between ``scheme://`` and ``?``, unquoted."""
    from urllib.parse import unquote

    return unquote(url.partition("://")[2].partition("?")[0])
