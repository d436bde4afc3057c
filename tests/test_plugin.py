"""A store of somebody else's, installed as a package of its own, is used like ours wherever a store is named."""

from __future__ import annotations

import importlib
import io
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pools import LIMIT

from skunkqueue import SkunkQueue, WorkerPool, WrongCall
from skunkqueue.cli.checks import url as checked_url
from skunkqueue.errors import SkunkError
from skunkqueue.persistence import Persister
from skunkqueue.persistence import url as registry
from skunkqueue.persistence.url import BACKENDS, get_backend, locate
from skunkqueue.testing import StoreContract, random_walk

ROW = """
from skunkqueue.persistence.url import Backend

BACKEND = Backend("mystore", ("mystore", "mystore+fast"), "{name}.store", "mystore-driver", path_schemes=("mystore",))
"""
STORE = """
from skunkqueue.persistence.sqlite import SQLitePersister
from skunkqueue.persistence.url import url_path, without_secrets

default_cfg = {"backend": "mystore", "conn_url": "/nowhere", "dbname": "runs"}


class MyStore(SQLitePersister):
    def __init__(self, url):
        super().__init__(url_path(url))
        self.url = without_secrets(url)


def open_url(url):
    return MyStore(url)
"""
JOBS = """
from skunkqueue import SkunkQueue

queue = SkunkQueue("demo")


@queue.event
def add(first, second):
    return first + second


@queue.event
def where():
    queue.count()
    return queue.url
"""

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a package where pip would: its modules, and the file that names its entry points."""
    site = tmp_path / "site"
    before = dict(sys.modules)

    def install_one(
        name: str = "mystore", points: str = "mystore = {name}:BACKEND\nmystore+fast = {name}:BACKEND", **files: str
    ) -> Path:
        package, about = site / name, site / f"{name}-1.0.dist-info"
        package.mkdir(parents=True)
        about.mkdir()
        for module, text in {"__init__": ROW, "store": STORE, **files}.items():
            (package / f"{module}.py").write_text(text.replace("{name}", name))
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[skunkqueue.stores]\n{points.replace('{name}', name)}\n")
        importlib.invalidate_caches()
        return site

    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setattr(registry, "_loaded", {})
    yield install_one
    for name in sys.modules.keys() - before.keys():
        if getattr(sys.modules[name], "__file__", None) and str(site) in str(sys.modules[name].__file__):
            del sys.modules[name]


@pytest.fixture
def url(install: Install, tmp_path: Path) -> str:
    install()
    return f"mystore://{tmp_path}/runs.db"


class TestStoreOfAnother(StoreContract):
    """The contract, through a queue on it."""

    @pytest.fixture
    def store(self, url: str) -> Iterator[Persister]:
        with SkunkQueue("demo", url) as queue:
            self.url = url
            yield queue.store

    def open_again(self, store: Persister) -> Persister:
        return get_backend(self.url)


@pytest.mark.parametrize("seed", range(3))
def test_the_random_walk_on_it(url: str, seed: int) -> None:
    with SkunkQueue("demo", url) as queue:
        assert type(queue.store).__module__ == "mystore.store"
        random_walk(queue.store, seed=seed)


def test_every_way_to_name_it_leads_to_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = url.removeprefix("mystore://")

    assert SkunkQueue("q", url).url == url
    assert SkunkQueue("q", backend="mystore", conn_url=path).url == url
    assert SkunkQueue("q", backend="mystore", conn_url="/nowhere", dbname="runs").url == "mystore:///nowhere/runs"
    assert locate(url.replace("://", "+fast://")).backend == "mystore"
    assert checked_url(url) == url
    assert WorkerPool("q", ["default"], url, log=io.StringIO()).queue.url == url
    assert pickle.loads(pickle.dumps(SkunkQueue("q", url))).url == url
    monkeypatch.setenv("SKUNKQUEUE_URL", url)
    assert SkunkQueue("q").url == url


@pytest.mark.parametrize("in_process", [True, False])
def test_a_pool_works_on_it(url: str, in_process: bool) -> None:
    queue = SkunkQueue("demo", url)

    @queue.event
    def add(first: int, second: int) -> int:
        return first + second

    with WorkerPool(queue, ["default"], in_process=in_process, log=io.StringIO()):
        assert add.fire(4, 5).wait(LIMIT) == 9
    queue.close()


def test_skunq_works_on_it_and_shows_it(url: str, tmp_path: Path) -> None:
    (tmp_path / "jobs.py").write_text(JOBS)
    env = {**os.environ, "SKUNKQUEUE_URL": url}

    def skunq(*args: str) -> str:
        command = [sys.executable, "-m", "skunkqueue.cli", *args]
        said = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env, timeout=2 * LIMIT)
        assert said.returncode == 0, said.stderr
        return said.stdout

    subprocess.run(
        [sys.executable, "-c", "import jobs; jobs.add.fire(4, 5); jobs.where.fire()"],
        cwd=tmp_path, env=env, check=True, timeout=LIMIT,
    )  # fmt: skip

    skunq("work", "-q", "demo", "--burst")

    shown = json.loads(skunq("runs", "--url", url, "--json"))
    assert {row["job"]: row["result"] for row in shown} == {"jobs:add": 9, "jobs:where": url}


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"points": "mystore = {name}:NOTHING"}, "the store 'mystore' of broken:NOTHING cannot be loaded"),
        ({"points": "mystore = gone.away:ROW"}, "the store 'mystore' of gone.away:ROW cannot be loaded"),
        ({"points": "mystore = {name}"}, "broken is to be a Backend with that name or scheme"),
        ({"__init__": "BACKEND = 3"}, "broken:BACKEND is to be a Backend with that name or scheme; got 3"),
        ({"__init__": "1 / 0"}, "cannot be loaded: ZeroDivisionError"),
        ({"__init__": ROW.replace("mystore", "other")}, "broken:BACKEND is to be a Backend with that name or scheme"),
        ({"store": "import a_driver_that_is_missing"}, "needs its driver: pip install 'mystore-driver'"),
        ({"store": ""}, "the mystore store of broken.store cannot be opened: AttributeError"),
        ({"store": "def open_url(url): return 3"}, "open_url of broken.store gives a Persister; it gave int"),
        ({"store": "def open_url(url): raise KeyError(url)"}, "cannot be opened: KeyError"),
    ],
)  # fmt: skip
def test_a_broken_one_gets_one_sentence(install: Install, files: dict[str, str], sentence: str) -> None:
    install("broken", **files)

    with pytest.raises(WrongCall) as caught:
        get_backend("mystore://me:S3CRET@host/x?token=S3CRET")

    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value) and "S3CRET" not in str(caught.value)


def test_one_that_is_broken_stops_no_other(install: Install, tmp_path: Path) -> None:
    install("broken", points="broken = broken:BACKEND", __init__="1 / 0")
    install()

    assert get_backend(f"mystore://{tmp_path}/x.db").count() == {}
    with pytest.raises(WrongCall, match=r"no store for elsewhere:// .*, broken://, mystore://, mystore\+fast://"):
        locate("elsewhere://x")
    with pytest.raises(WrongCall, match=r"no backend 'elsewhere'.* mystore"):
        locate(backend="elsewhere")


def test_two_packages_for_one_scheme_are_refused_and_ours_stay_ours(install: Install) -> None:
    install("first", points="mystore = first:BACKEND\nsqlite = first:BACKEND")
    install("second", points="mystore = second:BACKEND")

    with pytest.raises(WrongCall, match="several packages register a store 'mystore'"):
        locate("mystore://x")
    assert locate("sqlite:///x.db").backend == "sqlite"


def test_one_that_lives_in_one_process_says_so(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install(
        __init__=ROW.replace('path_schemes=("mystore",)', "one_process=True"),
        store="from skunkqueue.persistence.memory import MemoryPersister as open_url",
    )
    from click.testing import CliRunner

    from skunkqueue.cli.commands import skunq

    said = CliRunner().invoke(skunq, ["work", "-q", "demo", "--url", "mystore://x"])
    assert "mystore://x lives in one process only" in str(said.exception or "") + said.output
    monkeypatch.setattr("skunkqueue.connection._pool_url", "mystore://x")
    with pytest.raises(SkunkError, match="cannot use a mystore:// store, which lives in one process only"):
        SkunkQueue("demo", "mystore://y").count()


def test_whoever_uses_our_stores_does_not_wait_for_the_search_for_others() -> None:
    program = (
        "import sys, skunkqueue\n"
        "queue = skunkqueue.SkunkQueue('demo', 'memory://')\n"
        "queue.count(), queue.url, repr(queue)\n"
        "assert 'importlib.metadata' not in sys.modules"
    )

    subprocess.run([sys.executable, "-I", "-c", program], check=True, timeout=LIMIT)


def test_each_of_ours_has_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    schemes = [scheme for row in BACKENDS for scheme in row.schemes]

    assert len(schemes) == len(set(schemes))
    for row in BACKENDS:
        pytest.importorskip("redis")
        cfg: dict[str, Any] = importlib.import_module(row.module).default_cfg
        assert locate(**cfg).backend == row.name == cfg["backend"]
