"""Functions of a module that no import leads to travel with their run, like those of a script."""

from __future__ import annotations

import importlib
import importlib.util
import io
import runpy
import subprocess
import sys
import types
from functools import partial

import pytest
from pools import LIMIT, PoolProcess

from skunkqueue import SkunkQueue, WrongCall
from skunkqueue.importing import travels_by_value

PLUGIN = """
import dataclasses, os
from skunkqueue import SkunkQueue

queue = SkunkQueue("demo", os.environ["SKUNKQUEUE_URL"])

@dataclasses.dataclass
class Point:
    x: int
    def twice(self):
        return Point(2 * self.x)

def helper(point):
    return point.twice()

@queue.event(routes="foo")
def job(point):
    return helper(point).x

fire = lambda: job.fire(Point(4))
"""


def by_spec(path, name, register):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    if register:
        sys.modules[name] = module
    spec.loader.exec_module(module)
    return vars(module)


LOADERS = {
    "runpy": lambda path: runpy.run_path(str(path)),
    "spec": lambda path: by_spec(path, "plugin_alone", register=False),
    "spec in sys.modules": lambda path: by_spec(path, "plugin_registered", register=True),
    "spec under a dotted name": lambda path: by_spec(path, "plugins.of.mine", register=True),
    "spec under the name of another module": lambda path: by_spec(path, "wave", register=False),
    "exec": lambda path: exec_as(path.read_text(), "plugin_executed"),
}


def exec_as(source, name):
    module = sys.modules[name] = types.ModuleType(name)
    exec(source, vars(module))
    return vars(module)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pool")
    url = f"sqlite:///{folder}/runs.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKUNKQUEUE_KEY", "a key for tests")
        with PoolProcess(folder, url, "foo") as pool:
            yield pool.up(), url


@pytest.mark.parametrize("loader", LOADERS)
def test_a_job_of_a_module_that_was_loaded_by_path_runs_with_all_it_mentions(pool, tmp_path, monkeypatch, loader):
    monkeypatch.setenv("SKUNKQUEUE_URL", pool[1])
    path = tmp_path / "plugin.py"
    path.write_text(PLUGIN)

    loaded = LOADERS[loader](path)
    run = loaded["fire"]()

    assert not loaded["job"].is_importable()
    assert run.wait(LIMIT) == 8
    loaded["queue"].close()


def test_an_importable_job_takes_objects_of_such_a_module(pool, tmp_path, monkeypatch):
    monkeypatch.setenv("SKUNKQUEUE_URL", pool[1])
    path = tmp_path / "plugin.py"
    path.write_text(PLUGIN.replace("return helper(point).x", "return point.twice().x"))
    point = by_spec(path, "plugin_of_classes", register=True)["Point"](5)
    with SkunkQueue("demo", pool[1]) as queue:

        @queue.event(routes="foo")
        def twice(point):
            return point.twice().x

        assert twice.fire(point).wait(LIMIT) == 10


def test_what_python_finds_by_its_name_travels_by_it(tmp_path, monkeypatch):
    (tmp_path / "plain_package").mkdir()
    for name in ("__init__", "inner"):
        (tmp_path / "plain_package" / f"{name}.py").write_text("")
    (tmp_path / "single.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    names = (
        "plain_package",
        "plain_package.inner",
        "single",
        "json",
        "email.message",
        "sys",
        "os.path",
        "cloudpickle.cloudpickle",
    )
    for name in names:
        importlib.import_module(name)

    assert [name for name in names if travels_by_value(name)] == []
    assert all(map(travels_by_value, ("__main__", "__mp_main__")))


def test_a_module_that_was_found_through_a_relative_folder_or_a_finder_travels_by_its_name(tmp_path):
    (tmp_path / "mods").mkdir()
    (tmp_path / "mods" / "relative.py").write_text("")
    (tmp_path / "here.py").write_text("")
    code = (
        "import sys\n"
        "from importlib.abc import MetaPathFinder, Loader\n"
        "from importlib.machinery import ModuleSpec\n"
        "class Finder(MetaPathFinder, Loader):\n"
        "  def find_spec(self, name, path, target=None):\n"
        "    return ModuleSpec(name, self) if name == 'made_up' else None\n"
        "  def exec_module(self, module): pass\n"
        "sys.meta_path.append(Finder())\n"
        "sys.path[:0] = ['mods', '']\n"
        "import relative, here, made_up\n"
        "from skunkqueue.importing import travels_by_value as by_value\n"
        "print([by_value(name) for name in ('relative', 'here', 'made_up')])\n"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)

    assert done.stdout == "[False, False, False]\n", done.stderr


# -- what cannot be a job at all


def steps():
    yield 1


async def async_steps():
    yield 1


class Steps:
    def __call__(self):
        yield 1

    def method(self):
        yield 1

    @classmethod
    def of_class(cls):
        yield 1

    @staticmethod
    def static():
        yield 1


@pytest.mark.parametrize(
    "function",
    [steps, async_steps, Steps(), Steps().method, Steps.of_class, Steps.static, partial(steps), partial(partial(steps)),
     lambda: (yield), vars(Steps)["of_class"], vars(Steps)["static"]],
)  # fmt: skip
def test_a_generator_function_is_refused_at_the_decorator(function):
    queue = SkunkQueue("demo", "memory://generators")

    with pytest.raises(WrongCall, match="is a generator function"):
        queue.event(function)
    with pytest.raises(WrongCall, match="is a generator function"):
        queue.event(routes="foo")(function)


def test_a_function_that_only_makes_generators_inside_is_none():
    queue = SkunkQueue("demo", "memory://generators")

    queue.event(lambda: sum(n for n in range(3)))
    queue.event(io.StringIO)
    queue.event(len)
