"""Stands before the real ``fdb`` on the path: loads that one over the fake library, and takes its place."""

import ctypes
import importlib.machinery
import importlib.util
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent.parent


def _load_the_fake():
    if "fdb_fake" not in sys.modules:
        package = _HERE.parent
        spec = importlib.util.spec_from_file_location(
            "fdb_fake", package / "__init__.py", submodule_search_locations=[str(package)]
        )
        module = sys.modules["fdb_fake"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    from fdb_fake.library import Library

    return Library()


def _load_the_binding():
    elsewhere = [folder for folder in sys.path if Path(folder or ".").resolve() != _HERE]
    spec = importlib.machinery.PathFinder.find_spec("fdb", elsewhere)
    if spec is None:
        raise ModuleNotFoundError("No module named 'fdb'", name="fdb")
    binding = importlib.util.module_from_spec(spec)
    sys.modules["fdb"] = binding
    spec.loader.exec_module(binding)


def _load_the_binding_over(library):
    real = ctypes.CDLL

    def load(name, *args, **kwargs):
        return library if Path(str(name)).name == "libfdb_c.so" else real(name, *args, **kwargs)

    ctypes.CDLL = load
    try:
        importlib.import_module("fdb.impl")
    finally:
        ctypes.CDLL = real


_load_the_binding()
_load_the_binding_over(_load_the_fake())
