"""Users, passwords and TLS of a MongoDB, on a FerretDB that wants them; and that no log and no message has a secret."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("pymongo")

from mongo_servers import FerretServer, fresh_url
from pools import LIMIT, PoolProcess
from redis_server import Certificates
from test_mongodb_pool import load

from skunkqueue import StoreAway
from skunkqueue.errors import StoreError
from skunkqueue.persistence.mongodb import open_url
from skunkqueue.testing.makers import sealed

USER, PASSWORD, WRITTEN = "peter", "hunter2:@/?", "hunter2%3A%40%2F%3F"
SECRETS = (PASSWORD, WRITTEN, "hunter2")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(str(tmp_path_factory.mktemp("certificates")))


@pytest.fixture(scope="module")
def port(certificates: Certificates) -> Iterator[int]:
    with FerretServer() as server, server.guarded(USER, PASSWORD, certificates) as port:
        yield port


@pytest.fixture
def url(port: int, certificates: Certificates) -> str:
    """As a user would write it."""
    return fresh_url(f"mongodb://{USER}:{WRITTEN}@127.0.0.1:{port}/?tls=true&tlsCAFile={certificates.ca}")


def test_a_pool_works_with_a_user_over_tls_and_its_log_has_no_password(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = load("robust_jobs", url, tmp_path, monkeypatch)
    try:
        with PoolProcess(tmp_path, url, "foo", verbose=True) as pool:
            assert many.add.fire(1, 2).wait(LIMIT) == 3
            assert pool.stop() == 0
            log = pool.log()
    finally:
        many.queue.close()

    assert "finished" in log
    assert "127.0.0.1" in log
    assert not [secret for secret in (*SECRETS, USER) if secret in log]


@pytest.mark.parametrize("said", [f"{USER}:wrong-one", f"nobody:{WRITTEN}"])
def test_who_may_not_enter_is_told_so_at_once_and_without_the_password(url: str, said: str) -> None:
    wrong = url.replace(f"{USER}:{WRITTEN}", said)
    began = time.monotonic()

    with closing(open_url(wrong)) as store, pytest.raises(StoreError, match="check user, password and roles") as error:
        store.put([sealed()])

    assert type(error.value) is StoreError  # not one that is away, which would be tried again
    assert time.monotonic() - began < LIMIT / 2
    assert not [secret for secret in (*SECRETS, "wrong-one") if secret in f"{error.value} {store!r}"]


def test_a_certificate_that_nobody_vouches_for_is_refused_and_the_error_says_it(url: str) -> None:
    unknown = url.partition("&tlsCAFile")[0] + "&serverSelectionTimeoutMS=500"

    with closing(open_url(unknown)) as store, pytest.raises(StoreAway, match=r"(?i)certificate") as error:
        store.count()

    assert not [secret for secret in SECRETS if secret in str(error.value)]
