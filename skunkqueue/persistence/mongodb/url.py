"""Parses the URL of a MongoDB: which database, and which options are its user's."""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import unquote

from pymongo.errors import ConfigurationError, InvalidURI
from pymongo.uri_parser import parse_uri

from skunkqueue.errors import WrongCall
from skunkqueue.persistence.url import without_secrets, without_secrets_in

DBNAME: Final = "skunkqueue"
"""The database where the URL names none."""


class Target(NamedTuple):
    """A MongoDB to connect to. ``url`` is for logs, ``secret`` is what the driver is given."""

    url: str
    secret: str
    dbname: str
    options: frozenset[str]
    """The names of the options in the URL, in lower case."""


def parse_url(url: str) -> Target:
    """Parse a mongodb:// or mongodb+srv:// URL. Opens nothing, asks no name server. Raises WrongCall."""
    scheme, _, rest = url.partition("://")
    before, _, query = rest.partition("?")
    dbname = unquote(before.rpartition("@")[2].partition("/")[2]) or DBNAME
    if any(char in dbname for char in '/\\ "$.\x00'):
        raise WrongCall(f'a MongoDB database is named without any of / \\ . $ " or blanks; got {dbname!r}')
    if scheme.lower() == "mongodb":
        _check(url)
    said = [part.partition("=") for part in query.replace(";", "&").split("&") if part]
    if any(name.lower() == "w" and value == "0" for name, _, value in said):
        raise WrongCall(
            "w=0 in a MongoDB URL has the server confirm nothing, so nobody would know what it keeps; leave it out"
        )
    options = frozenset(name.lower() for name, _, _ in said)
    return Target(without_secrets(url), url, dbname, options)


def _check(url: str) -> None:
    try:
        parse_uri(url, warn=False)
    except (InvalidURI, ConfigurationError, ValueError) as error:
        raise WrongCall(f"{without_secrets(url)} is no URL of a MongoDB: {_words(error, url)}") from None


def _words(error: Exception, url: str) -> str:
    """The driver's words, unless they may repeat a piece of a password."""
    text = without_secrets_in(str(error))
    return text if "@" not in url else f"{type(error).__name__}; write @ : / ? % in user and password as %40 %3A ..."
