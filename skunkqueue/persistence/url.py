"""Finds stores: turns a URL or a ``default_cfg`` into one URL, and opens the store there."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, TypedDict

from skunkqueue.distribution import pip_install, with_extra
from skunkqueue.errors import SkunkError, WrongCall
from skunkqueue.persistence import Persister

GROUP: Final = "skunkqueue.stores"
"""The entry point group by which other packages register their stores: scheme = "module:row", a row is a Backend."""


class StoreConfig(TypedDict):
    """A ``default_cfg``: where a store is, in parts, as SkunkQueue and WorkerPool take them."""

    backend: str
    conn_url: str
    dbname: str | int


class Address(NamedTuple):
    """Where a store is: the name of its backend, and its URL."""

    backend: str
    url: str


def _plain_url(scheme: str, conn_url: str, dbname: Any) -> str:
    return f"{scheme}://{conn_url}" if dbname in (None, "") else f"{scheme}://{conn_url}/{dbname}"


class Backend(NamedTuple):
    """One kind of store, a row of the registry.

    ``module`` has ``open_url(url) -> Persister``, and may raise ImportError where its driver is missing: then people
    are told to install ``install``. ``path_schemes`` are the schemes whose URL leads to a file or a name, not to a
    host, so that an ``@`` in it ends no password. ``one_process`` says that its runs are seen by the process that
    opened it alone. ``url_of`` makes a URL of (first scheme, ``conn_url``, ``dbname``), for a ``default_cfg``;
    ``with_dbname`` puts a ``dbname`` into a URL that was given beside it, which has no meaning elsewhere.
    """

    name: str
    schemes: tuple[str, ...]
    module: str
    install: str = ""
    path_schemes: tuple[str, ...] = ()
    one_process: bool = False
    url_of: Callable[[str, str, Any], str] = _plain_url
    with_dbname: Callable[[str, Any], str] = lambda url, dbname: url


def get_backend(conn_url: str | None = None, backend: str | None = None, dbname: Any = None) -> Persister:
    """The store at a URL, or at a ``default_cfg``'s (backend, conn_url, dbname). Imports only the driver named.

    With nothing given: the environment variable SKUNKQUEUE_URL, else the embedded file of this user. Raises WrongCall.
    """
    found = locate(conn_url, backend, dbname)
    row = find_backend(found.backend)
    try:
        opened = importlib.import_module(row.module).open_url(found.url)
    except ImportError as error:
        remedy = f": {pip_install(row.install)}" if row.install else ""
        raise WrongCall(f"the {row.name} store needs its driver{remedy} ({error})") from error
    except SkunkError:
        raise
    except Exception as error:
        if row in BACKENDS:
            raise
        raise WrongCall(f"the {row.name} store of {row.module} cannot be opened: {_words(error)}") from error
    if not isinstance(opened, Persister):
        raise WrongCall(f"open_url of {row.module} gives a Persister; it gave {type(opened).__name__}")
    return opened


def locate(conn_url: str | None = None, backend: str | None = None, dbname: Any = None) -> Address:
    """Turn what people write into one URL. Raises WrongCall for a scheme or backend that is not there."""
    if conn_url is None and backend is None:
        conn_url = os.environ.get("SKUNKQUEUE_URL") or "sqlite://"
    if conn_url is not None and "://" in conn_url:
        return _from_url(conn_url, backend, dbname)
    if backend is None and _LIKE_A_URL.fullmatch(conn_url or ""):
        raise WrongCall(
            f"{(conn_url or '').rpartition('@')[2]!r} has no :// and so would be the name of a file; "
            "a URL begins with redis://, mongodb:// or the like, one of a file in this folder with sqlite:///"
        )
    row = find_backend(backend or "sqlite")
    return Address(row.name, row.url_of(row.schemes[0], conn_url or "", dbname))


def _from_url(url: str, backend: str | None, dbname: Any) -> Address:
    scheme = url.partition("://")[0].lower()
    row = _find(scheme)
    if row is None or scheme not in row.schemes:
        wrong = f"{scheme}://" if _SCHEME.fullmatch(scheme) else "the part before ://"
        known = [*_SCHEMES, *_registered()]
        raise WrongCall(f"there is no store for {wrong} ; there are {', '.join(s + '://' for s in known)}")
    if backend is not None and backend != row.name:
        raise WrongCall(f"the URL is one of {row.name}, but backend is {backend!r}; give one of the two")
    return Address(row.name, url if dbname in (None, "") else row.with_dbname(url, dbname))


# -- the registry ----------------------------------------------------------------------------------------------------


def find_backend(name: str) -> Backend:
    """The row of a backend, ours or registered by another package. Raises WrongCall."""
    row = _BY_NAME.get(name) or _find(name)
    if row is None:
        raise WrongCall(f"there is no backend {name!r}; there are {', '.join([*_BY_NAME, *_registered()])}")
    return row


def _find(scheme: str) -> Backend | None:
    """The row for a scheme; other packages are only asked for what is not ours, because that takes milliseconds."""
    row = _SCHEMES.get(scheme) or _loaded.get(scheme)
    if row is None and (row := _load(scheme)) is not None:
        _loaded[scheme] = row
    return row


def _load(name: str) -> Backend | None:
    """The row that another package has registered under a name. Raises WrongCall where it is broken."""
    from importlib.metadata import entry_points

    found = {entry.value: entry for entry in entry_points(group=GROUP, name=name)}
    if not found:
        return None
    if len(found) > 1:
        raise WrongCall(f"several packages register a store {name!r}: {', '.join(found)}; keep one of them")
    (entry,) = found.values()
    try:
        row = entry.load()
    except Exception as error:
        raise WrongCall(f"the store {name!r} of {entry.value} cannot be loaded: {_words(error)}") from error
    if not isinstance(row, Backend) or name not in (row.name, *row.schemes):
        raise WrongCall(f"the store {name!r}: {entry.value} is to be a Backend with that name or scheme; got {row!r}")
    return row


def _registered() -> list[str]:
    from importlib.metadata import entry_points

    return sorted({entry.name for entry in entry_points(group=GROUP)})


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {without_secrets_in(str(error))}"


def _sqlite_url(scheme: str, conn_url: str, dbname: Any) -> str:
    """``conn_url`` is a folder (the user's data folder when empty), ``dbname`` a file in it."""
    from urllib.parse import quote  # late, here and below: a worker process opens no store

    path = os.path.join(conn_url, str(dbname)) if conn_url and dbname else conn_url or str(dbname or "")
    return f"{scheme}:///{quote(path)}" if path else f"{scheme}://"


def _memory_url(scheme: str, conn_url: str, dbname: Any) -> str:
    from urllib.parse import quote

    return f"{scheme}://{quote(str(dbname or conn_url or ''))}"


def _redis_url(scheme: str, conn_url: str, dbname: Any) -> str:
    return f"{scheme}://{conn_url or 'localhost:6379'}/{0 if dbname is None else dbname}"


def _mongodb_url(scheme: str, conn_url: str, dbname: Any) -> str:
    where, mark, options = (conn_url or "localhost:27017").partition("?")
    return f"{scheme}://{where.rstrip('/')}/{dbname or 'skunkqueue'}{mark}{options}"


def _fdb_url(scheme: str, conn_url: str, dbname: Any) -> str:
    """``conn_url`` is a cluster file (the platform's default one when empty), ``dbname`` a directory in the cluster."""
    from urllib.parse import quote

    return f"{scheme}://{quote(conn_url)}" + (f"?prefix={quote(str(dbname), safe='')}" if dbname else "")


def _mongodb_with_dbname(url: str, dbname: Any) -> str:
    """The URL with a database. Raises WrongCall where it names another one."""
    from urllib.parse import quote, unquote

    before, mark, options = url.partition("?")
    scheme, _, rest = before.partition("://")
    login, at, place = rest.rpartition("@")
    hosts, _, path = place.partition("/")
    if path and unquote(path) != str(dbname):
        raise WrongCall(f"the URL names the database {unquote(path)!r}, but dbname is {dbname!r}; give one of the two")
    return f"{scheme}://{login}{at}{hosts}/{path or quote(str(dbname), safe='')}{mark}{options}"


BACKENDS: Final = (
    Backend(
        "memory", ("memory",), "skunkqueue.persistence.memory",
        path_schemes=("memory",), one_process=True, url_of=_memory_url,
    ),
    Backend("sqlite", ("sqlite",), "skunkqueue.persistence.sqlite", path_schemes=("sqlite",), url_of=_sqlite_url),
    Backend(
        "redis",
        (
            "redis", "rediss", "redis+unix", "unix",
            "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster",
        ),
        "skunkqueue.persistence.redis", with_extra("redis"),
        path_schemes=("redis+unix", "unix"), url_of=_redis_url,
    ),
    Backend(
        "mongodb", ("mongodb", "mongodb+srv"), "skunkqueue.persistence.mongodb", with_extra("mongodb"),
        url_of=_mongodb_url, with_dbname=_mongodb_with_dbname,
    ),
    Backend("fdb", ("fdb",), "skunkqueue.persistence.fdb", with_extra("fdb"), path_schemes=("fdb",), url_of=_fdb_url),
)  # fmt: skip
"""The stores that come with SkunkQueue."""

_BY_NAME: Mapping[str, Backend] = {row.name: row for row in BACKENDS}
_SCHEMES: Mapping[str, Backend] = {scheme: row for row in BACKENDS for scheme in row.schemes}
_loaded: dict[str, Backend] = {}


# -- URLs ------------------------------------------------------------------------------------------------------------

HIDDEN: Final = "***"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}")
_LIKE_A_URL = re.compile(r"(?:\S+@)?(?:[\w.-]+|\[[\w.:]+\]):\d+(?:/.*)?|[A-Za-z][\w+.-]*:/[^/].*")
"""Matches ``me:secret@localhost:6379`` and ``redis:/localhost``, not ``C:\\folder`` nor the name of a file."""
_HOST = re.compile(r"(?:[\w.-]+|\[[\w.:%]*\])?(?::\d+)?")
_SECRET = re.compile(r"(?i)pass|pwd|secret|token|key$|cred|auth|user|login|sign")
"""Matches the names of parameters whose values are secret."""


def without_secrets(url: str) -> str:
    """The URL with user and password left out and secret parameters hidden: for logs, errors and pickles.

    Where a part cannot be told from a piece of a password (an ``@`` or ``/`` in it that should have been written as
    ``%40`` or ``%2F``), all of it is hidden. Never raises.
    """
    scheme, is_url, rest = url.partition("://")
    if not is_url or not _SCHEME.fullmatch(scheme):
        return HIDDEN
    row = _SCHEMES.get(scheme.lower()) or _loaded.get(scheme.lower())
    is_path = row is not None and scheme.lower() in row.path_schemes
    return f"{scheme}://{(_public_path if is_path else _public)(rest)}"


def _public_path(rest: str) -> str:
    """What may be shown of a URL that leads to a file or a name."""
    path, mark, query = rest.partition("?")
    if not path.startswith("/") and "@" in rest:
        return _public(rest)
    return path + mark + _public_query(query)


def _public(rest: str) -> str:
    """What may be shown of a URL that leads to hosts."""
    size = min((at for mark in "/?#" if (at := rest.find(mark)) >= 0), default=len(rest))
    hosts, behind = rest[:size].rpartition("@")[2], rest[size:]
    if "@" in behind or not all(map(_HOST.fullmatch, hosts.split(","))):
        return HIDDEN
    path, mark, query = behind.partition("#")[0].partition("?")
    return hosts + path + mark + _public_query(query)


def _public_query(query: str) -> str:
    return "".join(_public_parameter(part) for part in re.split("([&;])", query))


def _public_parameter(text: str) -> str:
    from urllib.parse import unquote_plus

    name, equals, value = text.partition("=")
    is_secret = equals and value and _SECRET.search(unquote_plus(name).strip())
    return f"{name}={HIDDEN}" if is_secret else text


def without_secrets_in(text: str) -> str:
    """A foreign message, with each URL in it without secrets."""
    return re.sub(r"[A-Za-z][\w+.-]*://\S+", lambda found: without_secrets(found[0]), text)


def url_path(url: str) -> str:
    """The part between ``scheme://`` and ``?``, unquoted."""
    from urllib.parse import unquote

    return unquote(url.partition("://")[2].partition("?")[0])
