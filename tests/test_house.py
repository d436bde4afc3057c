"""The house keeps its order: imports point one way, drivers stay in their rooms, and importing costs little."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import skunkqueue

ROOT = Path(skunkqueue.__file__).parent

FLOORS = (
    {
        "distribution",
        "errors",
        "envelope",
        "ids",
        "routes",
        "clock",
        "durations",
        "times",
        "keys",
        "codec",
        "function_pickle",
        "signing",
        "signals",
        "printable",
        "importing",
        "pauses",
        "culprit",
        "pickling",
        "notes",
    },
    {
        "errors",
        "envelope",
        "ids",
        "routes",
        "clock",
        "durations",
        "keys",
        "codec",
        "function_pickle",
        "signing",
        "signals",
        "printable",
    }
    | {"draining", "referred"},
    {"persistence", "policy"},
    {"queue", "job", "job_pickle", "plan", "method", "lookup", "run", "options", "stub"}
    | {"watcher", "waiting", "connection", "batcher", "hints", "elsewhere", "facts", "hooks"}
    | {"schedules", "gates", "handlers", "classes", "spacing", "limits"},
    {"worker"},
    {"spool", "gearman", "cache", "metrics", "otel"},
    {"cli", "__main__"},
)
"""Whoever is on a floor imports only from it and from those before it."""

OUTSIDE = {"", "testing", "pytest_plugin"}
"""The public names, and what third parties test their stores with, may import from everywhere below the doors."""

DRIVERS = {
    "sqlite3": ("skunkqueue.persistence.sqlite", "skunkqueue.cache.sqlite"),
    "redis": ("skunkqueue.persistence.redis", "skunkqueue.cache.redis"),
    "hiredis": ("skunkqueue.persistence.redis",),
    "pymongo": ("skunkqueue.persistence.mongodb", "skunkqueue.cache.mongodb"),
    "bson": ("skunkqueue.persistence.mongodb", "skunkqueue.cache.mongodb"),
    "fdb": ("skunkqueue.persistence.fdb",),
}
"""Who may import a driver: the modules whose name begins like that."""

STORES = ("memory", "sqlite", "redis", "mongodb", "fdb")


class Import(NamedTuple):
    """One import statement: in which module, of what."""

    module: str
    target: str
    line: int

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


@cache
def modules() -> tuple[tuple[str, Path], ...]:
    return tuple(found_modules())


def found_modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports() -> tuple[Import, ...]:
    """Every import there is, late ones and those for type checkers too."""
    return tuple(found_imports())


def found_imports() -> Iterator[Import]:
    for module, path in modules():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Import):
                yield from (Import(module, name.name, node.lineno) for name in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{module}:{node.lineno} imports relatively"
                yield from (Import(module, f"{node.module}.{name.name}", node.lineno) for name in node.names)


def room(module: str) -> str:
    """``worker`` of ``skunkqueue.worker.pool.pool``; empty for the package itself."""
    parts = module.split(".")
    known = {name for floor in FLOORS for name in floor} | OUTSIDE
    return parts[1] if len(parts) > 1 and parts[1] in known else ""


def floor(name: str) -> int:
    """The package itself, which gathers the public names, is for the top floor only."""
    return next((number for number, names in enumerate(FLOORS) if name in names), len(FLOORS) - 1)


def test_every_module_has_its_place() -> None:
    known = {name for names in FLOORS for name in names} | OUTSIDE

    strangers = [module for module, _ in modules() if "." in module and module.split(".")[1] not in known]

    assert strangers == []


def test_imports_point_one_way() -> None:
    wrong = [
        str(found)
        for found in imports()
        if found.target.startswith("skunkqueue")
        and room(found.module) not in OUTSIDE
        and floor(room(found.target)) > floor(room(found.module))
    ]

    assert wrong == []


def test_persistence_knows_nothing_of_jobs_and_policy_nothing_of_stores() -> None:
    pairs = {(room(found.module), room(found.target)) for found in imports() if found.target.startswith("skunkqueue.")}

    assert ("persistence", "policy") not in pairs
    assert ("policy", "persistence") not in pairs


def test_a_driver_is_imported_only_in_its_own_module() -> None:
    wrong = [
        str(found)
        for found in imports()
        if (driver := found.target.split(".")[0]) in DRIVERS
        and not found.module.startswith(DRIVERS[driver])
        and not found.module.startswith("skunkqueue.testing")
    ]

    assert wrong == []


def test_no_store_is_named_outside_of_persistence() -> None:
    named = {f"skunkqueue.persistence.{store}" for store in STORES}
    wrong = [
        str(found)
        for found in imports()
        if any(found.target.startswith(name) for name in named)
        and not found.module.startswith(("skunkqueue.persistence", "skunkqueue.testing"))
        and (found.module, found.target) != ("skunkqueue", "skunkqueue.persistence.sqlite.default_cfg")
    ]

    assert wrong == []


@pytest.mark.parametrize(
    "store", [name for name in STORES if importlib.util.find_spec(f"skunkqueue.persistence.{name}")]
)
def test_every_store_has_a_default_cfg(store: str) -> None:
    if store == "redis":
        pytest.importorskip("redis")

    module = importlib.import_module(f"skunkqueue.persistence.{store}")

    assert set(module.default_cfg) == {"backend", "conn_url", "dbname"}
    assert module.default_cfg["backend"] == store


def loaded_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after a statement, beyond those it starts with."""
    code = f"import sys; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before), sep='\\n')"
    said = subprocess.run([sys.executable, "-I", "-c", code], stdout=subprocess.PIPE, check=True, text=True, timeout=60)
    return set(said.stdout.split())


HEAVY = {"asyncio", "rich", "click", "platformdirs", "cloudpickle", "multiprocessing", "ssl", "inspect", *DRIVERS}


def test_making_a_queue_and_a_job_loads_no_driver_and_nothing_heavy() -> None:
    loaded = loaded_by("import skunkqueue; skunkqueue.SkunkQueue('demo').event(print)")

    assert loaded & HEAVY == set()
    assert not {name for name in loaded if name.startswith(("skunkqueue.worker.", "skunkqueue.cli"))}


def test_importing_skunkqueue_alone_loads_no_store() -> None:
    loaded = loaded_by("import skunkqueue")

    assert loaded & HEAVY == set()


def test_a_plain_call_for_workers_loads_no_click_and_no_rich() -> None:
    loaded = loaded_by("import skunkqueue.cli.plain, skunkqueue.cli.serve; skunkqueue.cli.plain.read(['work'])")

    assert loaded & HEAVY == set()


def test_the_commands_load_click_and_no_more() -> None:
    loaded = loaded_by(
        "from skunkqueue.cli import commands; [commands.skunq.get_command(None, n) for n in commands.COMMANDS]"
    )

    assert loaded & {"rich", "ssl", "cloudpickle", "skunkqueue.queue", "skunkqueue.worker", *DRIVERS} == set()


def test_a_worker_process_loads_no_store_and_no_pool() -> None:
    loaded = loaded_by("import skunkqueue.worker.child.main")

    assert loaded & (HEAVY - {"inspect"}) == set()
    assert not {name for name in loaded if name in ("skunkqueue.worker.pool.pool", "skunkqueue.worker.pool.engine")}


SOURCES = ("skunkqueue.spool", "skunkqueue.gearman")


def test_the_core_knows_of_no_source() -> None:
    knowing = [
        module
        for module, path in modules()
        if not module.startswith((*SOURCES, "skunkqueue.cli", "skunkqueue.cache"))  # whose names are its users'
        and re.search("spool|hermes|gearman", path.read_text(encoding="utf-8"), re.IGNORECASE)
    ]

    assert knowing == []


def test_a_source_uses_of_the_workers_only_what_is_exported() -> None:
    public = {f"skunkqueue.worker.{name}" for name in importlib.import_module("skunkqueue.worker").__all__}

    used = [str(found) for found in imports() if found.module.startswith(SOURCES)]
    wrong = [
        str(found)
        for found in imports()
        if found.module.startswith(SOURCES)
        and found.target.startswith("skunkqueue.worker")
        and found.target not in public
    ]

    assert used and wrong == []


def test_a_source_uses_no_private_name_of_what_it_holds() -> None:
    """``self._log.say`` is its own, ``self._log._size`` is not; ``_value_`` is a public name of an enumeration."""
    wrong = [
        f"{module}:{node.lineno} uses {node.attr}"
        for module, path in modules()
        if module.startswith(SOURCES)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and re.fullmatch("_[a-z].*[^_]", node.attr) and node.attr != "_replace"
        if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
    ]

    assert wrong == []


def test_no_two_classes_of_a_source_and_of_the_rest_have_one_name() -> None:
    named: dict[str, set[str]] = {}
    for module, path in modules():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef):
                named.setdefault(node.name, set()).add(module)

    twice = {
        name: found for name, found in named.items() if len(found) > 1 and any(m.startswith(SOURCES) for m in found)
    }

    assert twice == {}


def test_every_module_says_what_it_is_for() -> None:
    silent = [module for module, path in modules() if path.stat().st_size and not ast.get_docstring(tree(path))]

    assert silent == []


def test_the_entry_point_is_there() -> None:
    assert callable(importlib.import_module("skunkqueue.cli").main)
    assert (ROOT / "py.typed").exists()
    assert os.access(ROOT.parent / ".ci" / "run", os.X_OK) or not (ROOT.parent / ".ci").exists()


def test_no_imports_go_round_in_a_circle_but_for_types_between_jobs_and_queues() -> None:
    """A module may say of which type what it holds is; ``queue`` makes jobs and runs, and they lead back to it."""
    names = {module for module, _ in modules()}

    def home(target: str) -> str:
        while target not in names:
            target = target.rpartition(".")[0]
        return target

    arrows: dict[str, set[str]] = {}
    for found in imports():
        if found.target.startswith("skunkqueue."):
            arrows.setdefault(found.module, set()).add(home(found.target))

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        left = [start]
        while left:
            new = arrows.get(left.pop(), set()) - seen - {"skunkqueue"}
            seen |= new
            left += new
        return seen

    circles = {module for module in arrows if module != "skunkqueue" and module in reached(module)}
    assert circles == {
        f"skunkqueue.{name}"
        for name in (
            *("batcher", "job", "job_pickle", "method", "plan", "queue", "run", "waiting"),
            *("classes", "gates.after", "gates.values", "schedules.desk"),
        )
    }
