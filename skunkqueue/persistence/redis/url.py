"""Parses the URL of a Redis: its address, credentials and options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from skunkqueue.errors import WrongCall


def _yes(text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on", "0", "false", "no", "off"):
        return text.lower() in ("1", "true", "yes", "on")
    raise ValueError(text)


def _at_least_0(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        number = kind(text)
        if not 0 <= number <= MOST_SECONDS:
            raise ValueError(text)
        return number

    return read


_PARAMETERS: Mapping[str, Callable[[str], Any]] = {
    "db": int,
    "username": str,
    "password": str,
    "client_name": str,
    "socket_timeout": float,
    "socket_connect_timeout": float,
    "sentinel_username": str,
    "sentinel_password": str,
    "wait_replicas": _at_least_0(int),
    "replicas_timeout": _at_least_0(float),
}
_TLS: Mapping[str, Callable[[str], Any]] = {
    "ssl_cert_reqs": str,
    "ssl_ca_certs": str,
    "ssl_ca_path": str,
    "ssl_certfile": str,
    "ssl_keyfile": str,
    "ssl_keyfile_password": str,
    "ssl_check_hostname": _yes,
}
MOST_SECONDS = 86_400
REPLICAS_TIMEOUT = 1.0
"""Seconds that a put waits for its replicas, where the URL does not say."""

ESCAPES = "In a user or password, @ is written %40, / %2F, : %3A, ? %3F and # %23"
_DEFAULT_PORT = {"sentinel": 26379, "cluster": 6379, "server": 6379}


class Target(NamedTuple):
    """The parts of a URL. ``url`` is without secrets; ``options`` are redis-py's.

    A put returns when ``replicas`` have it, and fails if they do not within ``replicas_timeout`` seconds.
    """

    kind: str
    hosts: tuple[tuple[str, int], ...]
    path: str
    master: str
    url: str
    tls: bool
    options: dict[str, Any]
    sentinel_options: dict[str, Any]
    replicas: int = 0
    replicas_timeout: float = REPLICAS_TIMEOUT

    def __repr__(self) -> str:
        return f"Target({self.url!r})"


def parse_url(url: str) -> Target:
    """Read a URL. Raises WrongCall, which never repeats a secret."""
    scheme, _, rest = url.partition("://")
    tls = scheme.startswith("rediss")
    kind = {"unix": "unix", "sentinel": "sentinel", "cluster": "cluster"}.get(scheme.rpartition("+")[2], "server")
    parts = _split(rest, kind)
    options = _options(parts.query, tls, scheme)
    user, host_list = _user_and_hosts(parts.netloc)
    options.update({name: value for name, value in user.items() if name not in options})
    sentinel_options = {n[9:]: options.pop(n) for n in ("sentinel_username", "sentinel_password") if n in options}
    replicas = options.pop("wait_replicas", 0), options.pop("replicas_timeout", REPLICAS_TIMEOUT)
    path, master, db = _path(kind, unquote(parts.path))
    if db is not None:
        options.setdefault("db", _number(db))
    _check(kind, path, master, options)
    hosts = () if kind == "unix" else _hosts(host_list, _DEFAULT_PORT[kind])
    public = _public(scheme, hosts, path, master, options.get("db", 0))
    return Target(kind, hosts, path, master, public, tls, options, sentinel_options, *replicas)


def _split(rest: str, kind: str) -> SplitResult:
    try:
        parts = urlsplit("//" + rest)
    except ValueError:  # its message may contain a password
        raise WrongCall("a Redis URL is redis://host:port/number; the one given cannot be parsed") from None
    late = "@" in parts.path + parts.query + parts.fragment
    if late and (kind != "unix" or parts.netloc):
        raise WrongCall(f"the URL has an unescaped character in its user or password. {ESCAPES}")
    return parts


def _options(query: str, tls: bool, scheme: str) -> dict[str, Any]:
    known = {**_PARAMETERS, **_TLS} if tls else _PARAMETERS
    options: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            raise WrongCall(f"a {scheme}:// URL has no parameter {name!r}; there are {', '.join(known)}")
        try:
            options[name] = known[name](text)
        except ValueError:
            raise WrongCall(f"the URL's parameter {name} has an invalid value") from None
    return options


def _user_and_hosts(netloc: str) -> tuple[dict[str, str], str]:
    login, at, hosts = netloc.rpartition("@")
    user, _, password = login.partition(":")
    found = {"username": unquote(user), "password": unquote(password)} if at else {}
    return {name: value for name, value in found.items() if value}, hosts


def _hosts(text: str, default: int) -> tuple[tuple[str, int], ...]:
    return tuple(_host(one, default) for one in text.split(",")) if text else (("localhost", default),)


def _host(text: str, default: int) -> tuple[str, int]:
    name, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        name, port = text, str(default)
    if not port.isdecimal():  # not repeated: it may be a piece of a password
        raise WrongCall(f"a Redis URL is redis://host:port/number; its port is not a number. {ESCAPES}")
    return name.strip("[]") or "localhost", int(port)


def _number(text: str) -> int:
    if text.isdecimal():
        return int(text)
    raise WrongCall(f"a Redis URL is redis://host:port/number; {text!r} is not a number")


def _path(kind: str, path: str) -> tuple[str, str, str | None]:
    """The socket's path, the master's name and the number of the database."""
    if kind == "unix":
        return path, "", None
    master, _, db = path.strip("/").partition("/") if kind == "sentinel" else ("", "", path.strip("/"))
    return "", master, db or None


def _check(kind: str, path: str, master: str, options: dict[str, Any]) -> None:
    if kind == "unix" and not path:
        raise WrongCall("a unix socket's URL is redis+unix:///folder/redis.sock ; the path is missing")
    if kind == "sentinel" and not master:
        raise WrongCall("a sentinel URL is redis+sentinel://host:port,host:port/master-name/0 ; the name is missing")
    if kind == "cluster" and options.get("db"):
        raise WrongCall("a Redis cluster has only database 0; leave the number out")


def _public(scheme: str, hosts: Sequence[tuple[str, int]], path: str, master: str, db: int) -> str:
    if path:
        return f"{scheme}://{quote(path, safe='/@')}?db={db}"
    where = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in hosts)
    return f"{scheme}://{where}/{quote(master, safe='')}/{db}" if master else f"{scheme}://{where}/{db}"
