"""What URLs give away: nothing that is a secret, however they are written."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skunkqueue import SkunkQueue, WrongCall
from skunkqueue.errors import SkunkError
from skunkqueue.persistence import url as module
from skunkqueue.persistence.redis.url import _PARAMETERS, _TLS
from skunkqueue.persistence.url import BACKENDS, Backend, get_backend, locate, without_secrets

SECRET = "S3CRET"
PLUGGED = Backend("plugged", ("plugged", "plugged+file"), "nowhere", path_schemes=("plugged+file",))
ROWS = (*BACKENDS, PLUGGED)
SCHEMES = [scheme for row in ROWS for scheme in row.schemes]
SECRET_PARAMETERS = [
    *[name for name in {**_PARAMETERS, **_TLS} if "password" in name or "username" in name],
    "passwd", "PASSWORD", "pass%77ord", "my_secret", "token", "access_token", "api_key", "apikey", "user",
    "authMechanismProperties", "pwd", "credentials",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _plugged_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(module._loaded, "plugged", PLUGGED)
    monkeypatch.setitem(module._loaded, "plugged+file", PLUGGED)
    yield


def all_that_is_said(url: str) -> str:
    """What a program, a log or a pickle may show of a URL, and what is said where it is refused."""
    said = without_secrets(url)
    try:
        queue = SkunkQueue("demo", url)
        said += repr(queue) + queue.url + pickle.dumps(queue).decode("latin-1")
        store = get_backend(url)
        said += repr(store) + store.url
        store.close()
    except SkunkError as error:
        said += str(error) + repr(error.__cause__)
    return said


@pytest.mark.parametrize("name", SECRET_PARAMETERS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_secret_parameter_of_any_store_is_never_said(scheme: str, name: str) -> None:
    for where, separator in product(("host:1", "/folder/file", "me:pw@host:1/0"), "?&;"):
        given = f"{scheme}://{where}?" + ("" if separator == "?" else f"x=1{separator}") + f"{name}={SECRET}&db=2"

        assert SECRET not in all_that_is_said(given), given


@pytest.mark.parametrize("scheme", [s for s in SCHEMES if s not in ("memory", "sqlite", "plugged+file")])
@pytest.mark.parametrize(
    "login",
    [
        "{}", "{}:", ":{}", "me:{}", ":p@{}", ":{}@p", ":p/{}", ":{}/p", ":p?{}", ":{}?p", ":p#{}", ":{}#p", ":12/{}",
        "me:12?a={}", "me:12?{}", "me:12#{}", ":p:{}", ":/{}", ":%{}", ":[{}", ":]{}", ":{}\n", ": {}", ":p%40{}",
        "me:12?a={}&password=x", ":p\\{}", "{}/", "a,b:{}", ":?x=1&{}&y",
    ],
)  # fmt: skip
def test_a_password_is_never_said_whatever_it_holds(scheme: str, login: str) -> None:
    for host in ("localhost:1/0", "one:1,two:2/name/0", "[::1]:1"):
        given = f"{scheme}://{login.format(SECRET)}@{host}"

        assert SECRET not in all_that_is_said(given), given


@given(st.text("aS/@:?#&=%;,[]1. \n", max_size=12), st.text("a/@:?#&=%;,[]1. \n", max_size=12))
def test_no_piece_of_a_password_is_shown(before: str, after: str) -> None:
    """Whatever characters stand around it: ``me:PASSWORD@host``, as people who forget to quote write it."""
    for scheme in ("redis", "rediss+sentinel", "nobody-knows", "redis+unix"):
        assert SECRET not in without_secrets(f"{scheme}://me:{before}{SECRET}{after}@host/0")


@given(st.text())
def test_garbage_is_answered_and_never_raises(text: str) -> None:
    once = without_secrets(text)

    assert without_secrets(once) == once


@pytest.mark.parametrize(
    "garbage", ["", "x", f"u:{SECRET}@host", f"u:{SECRET}@x://y", f"redis:/u:{SECRET}@host", f"://u:{SECRET}@h", "://"]
)
def test_what_is_no_url_is_not_repeated(garbage: str) -> None:
    assert without_secrets(garbage) in ("***", f"{garbage.partition('://')[0]}://***")
    if "://" in garbage:
        with pytest.raises(WrongCall) as caught:
            locate(garbage)
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("sqlite://", "sqlite://"),
        ("sqlite:///me@work#1/q.db?durability=normal", "sqlite:///me@work#1/q.db?durability=normal"),
        ("memory://a b[1]", "memory://a b[1]"),
        ("redis://me:pw@host:6379/0", "redis://host:6379/0"),
        ("redis://me:p@w@host:6379/0", "redis://host:6379/0"),
        ("redis://me:p%2Fw@[::1]:6379/0?db=2", "redis://[::1]:6379/0?db=2"),
        ("redis://host/0?password=pw&db=2", "redis://host/0?password=***&db=2"),
        ("rediss://host?ssl_keyfile=/a&ssl_keyfile_password=pw", "rediss://host?ssl_keyfile=/a&ssl_keyfile_password=***"),
        ("redis+sentinel://:pw@a:1,b:2/m/0?sentinel_password=pw", "redis+sentinel://a:1,b:2/m/0?sentinel_password=***"),
        ("redis+unix://:pw@/folder/r.sock", "redis+unix:///folder/r.sock"),
        ("redis+unix:///me@work/r.sock?db=1", "redis+unix:///me@work/r.sock?db=1"),
        ("redis://:p/w@host/0", "redis://***"),
        ("plugged+file:///a@b?token=pw", "plugged+file:///a@b?token=***"),
        ("unheard-of://me:pw@host/x?y=1", "unheard-of://host/x?y=1"),
    ],
)  # fmt: skip
def test_what_is_no_secret_is_shown(url: str, public: str) -> None:
    assert without_secrets(url) == public


def test_a_password_that_was_not_quoted_is_refused_with_the_way_to_write_it() -> None:
    pytest.importorskip("redis")

    with pytest.raises(WrongCall, match=r"/ %2F"):
        get_backend("redis://:pa/ss@localhost/0")
