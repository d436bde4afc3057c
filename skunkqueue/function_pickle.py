"""Pickles of functions that keep file names and short sources, so that remote tracebacks read as local ones do; and
pickles of values, which say so where they carry code."""

from __future__ import annotations

import copyreg
import io
import linecache
import sys
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import CodeType, FunctionType
from typing import Any, Final

import cloudpickle
import msgpack

from skunkqueue.envelope import PYTHON
from skunkqueue.importing import BY_VALUE, travels_by_value

MOST_SOURCE: Final = 20_000
"""Characters of source that one pickle carries. A function that does not fit travels without its source."""

MOST_KEPT: Final = 256
"""Pickles whose sources are remembered, so that they are read and packed at the first fire only."""

_FILENAME: Final = 10
"""Where the file name stands among the arguments of CodeType, from Python 3.11 on."""

_plain_reducers: Final = cloudpickle.Pickler.dispatch_table
_reduce_code: Final = _plain_reducers[CodeType]

_packed: dict[tuple[int, ...], tuple[list[CodeType], bytes]] = {}


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Notes the code it writes, and leaves it its file name, which some versions of cloudpickle take away.

    What a module defines that was loaded from a path goes by value, like what the script itself defines. Objects with
    a method ``reduced_by_value`` are asked for that, instead of their ``__reduce__``.
    """

    def __init__(self, file: io.BytesIO) -> None:
        self.codes = codes = list[CodeType]()
        names: dict[str, str] = {}

        def reduce(code: CodeType) -> Any:
            codes.append(code)
            make, args = _reduce_code(code)
            # One new string for each name: pickle writes a string by its identity, and equal functions are equal bytes.
            name = names.setdefault(code.co_filename, "".join(code.co_filename))
            return make, (*args[:_FILENAME], name, *args[_FILENAME + 1 :])

        # One dict, since a chain of maps is searched for every object.
        self.dispatch_table = {**copyreg.dispatch_table, **_plain_reducers.maps[0], CodeType: reduce}
        super().__init__(file)

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, type | FunctionType):
            _look_at(value.__module__)
        elif (reduced := getattr(type(value), "reduced_by_value", None)) is not None:
            return reduced(value)
        return super().reducer_override(value)


_modules: set[str | None] = set()
"""Modules whose functions and classes were met."""


def _look_at(name: str | None) -> None:
    """Have cloudpickle take a module by value that a worker cannot import by its name."""
    if name in _modules:
        return
    if name in sys.modules and name not in BY_VALUE and travels_by_value(name):
        cloudpickle.register_pickle_by_value(sys.modules[name])
    _modules.add(name)


def dumps_function(value: Any) -> bytes:
    """The pickle of a function, with the sources of its code behind it; ``pickle.loads`` passes over them."""
    with io.BytesIO() as file:
        pickler = _Pickler(file)
        pickler.dump(value)
        if pickler.codes:
            file.write(_sources(pickler.codes))
        return file.getvalue()


def dumps_value(value: Any) -> bytes:
    """The pickle of a value. Where it carries code, of functions or classes, the Python that can run it is named
    behind it, with the length of that name; ``pickle.loads`` passes over both.
    """
    with io.BytesIO() as file:
        pickler = _Pickler(file)
        pickler.dump(value)
        data = file.getvalue()
    if pickler.codes or _CLASS_BY_VALUE in data:
        return data + PYTHON.encode() + bytes([len(PYTHON)])
    return data


_CLASS_BY_VALUE: Final = b"_make_skeleton_"
"""Part of the names of the functions by which cloudpickle makes a class anew, which may have no code of its own."""


def _sources(codes: list[CodeType]) -> bytes:
    """The sources of all this code, packed. The same code gives the same bytes, also when its file has changed."""
    key = tuple(map(id, codes))
    found = _packed.get(key)
    if found is None:
        if len(_packed) >= MOST_KEPT:
            _packed.clear()
        found = _packed[key] = codes, _pack(_pieces(codes))  # with the code itself, so that no id is used again
    return found[1]


def _pieces(codes: list[CodeType]) -> dict[str, dict[int, list[str]]]:
    """By file and first line, the lines of each function. What is nested comes after its function, and lies within."""
    pieces: dict[str, dict[int, list[str]]] = {}
    room = MOST_SOURCE
    for code in codes:
        first, last = _span(code)
        known = pieces.setdefault(code.co_filename, {})
        if any(start <= first and last < start + len(lines) for start, lines in known.items()):
            continue
        lines = _read(code.co_filename)[first - 1 : last]
        size = sum(map(len, lines))
        if lines and size <= room:
            known[first] = lines
            room -= size
    return {name: known for name, known in pieces.items() if known}


def _span(code: CodeType) -> tuple[int, int]:
    """The first and the last line of a function, counted from 1."""
    numbers = [code.co_firstlineno, *(line for _, _, line in code.co_lines() if line)]
    inner = [_span(const) for const in code.co_consts if isinstance(const, CodeType)]
    return max(1, min(numbers)), max([*numbers, *(last for _, last in inner)])


def _read(name: str) -> list[str]:
    linecache.checkcache(name)
    return linecache.getlines(name)


def _pack(pieces: dict[str, dict[int, list[str]]]) -> bytes:
    if not pieces:
        return b""
    packed: bytes = msgpack.packb(pieces, unicode_errors="surrogatepass")
    return zlib.compress(packed)


def _unpack(packed: bytes) -> Mapping[str, Mapping[int, list[str]]]:
    if not packed:
        return {}
    pieces: Mapping[str, Mapping[int, list[str]]] = msgpack.unpackb(
        zlib.decompress(packed), strict_map_key=False, unicode_errors="surrogatepass"
    )
    return pieces


_lock = threading.Lock()


@contextmanager
def known_to_tracebacks(packed: bytes) -> Iterator[None]:
    """Meanwhile tracebacks find these sources where this machine's file is missing, or is not the same."""
    if not packed:
        yield
        return
    with _lock:  # two functions of one file, in different versions, may fail at once
        before = {}
        for name, known in _unpack(packed).items():
            if not _is_here(name, known):
                before[name] = linecache.cache.get(name)
                linecache.cache[name] = _entry(name, known)
        try:
            yield
        finally:
            for name, entry in before.items():
                linecache.cache.pop(name, None)
                if entry is not None:
                    linecache.cache[name] = entry


def _is_here(name: str, known: Mapping[int, list[str]]) -> bool:
    here = _read(name)
    return all(here[first - 1 : first - 1 + len(lines)] == lines for first, lines in known.items())


def _entry(name: str, known: Mapping[int, list[str]]) -> Any:
    """As linecache keeps a file; one without a time of change is never looked for on the disk."""
    whole = [""] * max(first - 1 + len(lines) for first, lines in known.items())
    for first, lines in known.items():
        whole[first - 1 : first - 1 + len(lines)] = lines
    return sum(map(len, whole)), None, whole, name
