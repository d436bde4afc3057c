"""Ordinary use in every combination, at random, with every net off: see ``ordinary``, which plays it for longer too."""

from __future__ import annotations

import os
import random

import pytest
from ordinary import play

SECONDS = {1: 10.0, 2: 40.0}


@pytest.mark.parametrize("number", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("store", ["memory", "sqlite", "redis", pytest.param("fdb", marks=pytest.mark.slow)])
def test_every_run_starts_and_every_waiter_is_told_whatever_the_combination(
    store, number, request, tmp_path, monkeypatch
):
    """``SKUNKQUEUE_TEST_SEED`` plays one scene again; its seed is printed with it."""
    for name in ("SKUNKQUEUE_URL", "MARKS"):
        monkeypatch.setenv(name, "")  # set by the scene, restored after it
    url = f"memory://{tmp_path}" if store == "memory" else f"sqlite:///{tmp_path}/runs.db"
    if store == "redis":
        server = request.getfixturevalue("shared_redis")
        with server.client() as client:
            client.flushall()
        url = server.url
    if store == "fdb":
        from fdb_servers import fresh_url

        url = fresh_url(request.getfixturevalue("shared_fdb"))

    seed = int(os.environ.get("SKUNKQUEUE_TEST_SEED") or random.randrange(1 << 32))
    play(store, seed, SECONDS[number], url, tmp_path)
