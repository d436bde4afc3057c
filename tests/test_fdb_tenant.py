"""Tenants of a FoundationDB 7: a queue in one is seen in no other.

The fake has none, as the binding that tests install, 8.0, has none: they went with that version. So these need a real
cluster of 7.3 and the binding of its version.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from fdb_servers import SERVER, RealCluster, binding, has_tenants, is_real, opened

fdb = binding()

from skunkqueue import SkunkQueue, StoreError  # noqa: E402
from skunkqueue.persistence.fdb import open_url  # noqa: E402
from skunkqueue.testing.makers import count_states, ids_of, sealed, take  # noqa: E402

pytestmark = pytest.mark.skipif(
    not (is_real() and os.environ.get(SERVER) and has_tenants()),
    reason=f"needs a cluster with tenants: the binding of 7.3, and {SERVER}",
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RealCluster]:
    with RealCluster() as cluster:
        cluster.tell("configure tenant_mode=optional_experimental")
        db = opened(cluster.file)
        for name in (b"one", b"two"):
            fdb.tenant_management.create_tenant(db, name)
        yield cluster


def test_a_queue_in_a_tenant_is_seen_in_no_other(cluster: RealCluster) -> None:
    url = f"fdb://{cluster.file}"
    with (
        closing(open_url(url)) as bare,
        closing(open_url(url + "?tenant=one")) as one,
        closing(open_url(url + "?tenant=two")) as two,
    ):
        one.put([sealed(1), sealed(2)])
        two.put([sealed(1, body=b"other")])

        assert [count_states(each) for each in (one, two, bare)] == [{"queued": 2}, {"queued": 1}, {}]
        assert ids_of(take(one, limit=1)) == [sealed(1).id]
        assert take(two)[0].envelope.body == b"other"


def test_a_transaction_of_a_tenant_takes_runs(cluster: RealCluster) -> None:
    with SkunkQueue("demo", f"fdb://{cluster.file}?tenant=one&prefix=via") as queue:
        job, db = queue.event(print), queue.store.database  # type: ignore[attr-defined]

        @fdb.transactional
        def order(tr: Any) -> Any:
            tr[b"mine"] = b"1"
            return job.options(via=tr).fire(1)

        run = order(db)

        assert [each.id for each in queue.runs()] == [run.id]
        assert db[b"mine"] == b"1"


def test_a_tenant_that_is_not_there_is_told_in_a_sentence(cluster: RealCluster) -> None:
    with (
        closing(open_url(f"fdb://{cluster.file}?tenant=none")) as store,
        pytest.raises(StoreError, match="no such tenant"),
    ):
        store.count()
