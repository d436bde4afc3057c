"""The face of ``libfdb_c.so``: what the binding calls through ctypes, with handles instead of pointers."""

from __future__ import annotations

import ctypes
import itertools
import struct
import threading
from collections.abc import Callable
from typing import Any

from fdb_fake import codes
from fdb_fake.codes import Refusal
from fdb_fake.database import Database
from fdb_fake.network import Future, Network, failed
from fdb_fake.transaction import Transaction

MAX_API_VERSION = 800
_ROW = struct.Struct("<QiQi")  # KeyValueStruct: two pointers with their lengths, packed to four bytes
_KEY = struct.Struct("<Qi")

_TARGETS = [0, 256, 1000, 4096, 80_000]
"""Bytes of an answer to a range read, by streaming mode; none for ``exact``."""
_ITERATOR = [4096, 6144, 9216, 13824, 20736, 31104, 46656, 69984, 80000, 120000]


class Function:
    """One function of the library. The binding sets its types, as ctypes wants; only ``errcheck`` is needed."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call
        self.argtypes: Any = None
        self.restype: Any = None
        self.errcheck: Callable[..., Any] | None = None

    def __call__(self, *args: Any) -> Any:
        try:
            result = self._call(*args)
        except Refusal as refusal:
            result = refusal.code
        if self.errcheck is not None:
            return self.errcheck(0 if result is None else result, self, args)
        return result


class Handles:
    """Objects by the number that the binding holds in place of a pointer."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._objects: dict[int, Any] = {}

    def new(self, what: Any) -> int:
        number = next(self._numbers)
        self._objects[number] = what
        return number

    def __getitem__(self, handle: Any) -> Any:
        return self._objects[getattr(handle, "value", handle)]

    def drop(self, handle: Any) -> None:
        self._objects.pop(getattr(handle, "value", handle), None)


class Library:
    """In place of what ``ctypes.CDLL`` gives: every ``fdb_*`` function is an attribute."""

    def __init__(self) -> None:
        self._handles = Handles()
        self._network: Network | None = None
        self._running = False
        self._version = 0
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Function:
        if not name.startswith("fdb_"):
            raise AttributeError(name)
        call = getattr(type(self), f"_{name[4:]}", None)
        function = Function(_missing if call is None else call.__get__(self))
        setattr(self, name, function)
        return function

    # The library and its network

    def _select_api_version_impl(self, version: int, header: int) -> int:
        if max(version, header) > MAX_API_VERSION:
            return codes.API_VERSION_NOT_SUPPORTED
        self._version = version
        return 0

    def _get_max_api_version(self) -> int:
        return MAX_API_VERSION

    def _get_error(self, code: int) -> bytes:
        return codes.TEXTS.get(code, "UNKNOWN_ERROR").encode()

    def _error_predicate(self, predicate: int, code: int) -> int:
        return int(code in codes.PREDICATES[predicate])

    def _network_set_option(self, option: int, value: bytes | None, length: int) -> None:
        """Taken, whatever it is."""

    def _setup_network(self) -> None:
        if self._network is not None:
            raise Refusal(codes.NETWORK_ALREADY_SETUP)
        self._network = Network()

    def _run_network(self) -> None:
        if self._network is None:
            raise Refusal(codes.NETWORK_NOT_SETUP)
        if self._running:
            raise Refusal(codes.NETWORK_CANNOT_BE_RESTARTED)
        self._running = True
        self._network.run()

    def _stop_network(self) -> None:
        if self._network is None:
            raise Refusal(codes.NETWORK_NOT_SETUP)
        self._network.stop()

    # Futures

    def _new(self, future: Future) -> int:
        return self._handles.new(future)

    def _future_destroy(self, handle: int) -> None:
        future = self._handles[handle]
        self._handles.drop(handle)
        future.cancel()

    def _future_cancel(self, handle: int) -> None:
        self._handles[handle].cancel()

    def _future_release_memory(self, handle: int) -> None:
        future = self._handles[handle]
        future.value, future.code, future.kept = None, codes.FUTURE_RELEASED, None

    def _future_is_ready(self, handle: int) -> int:
        return int(self._handles[handle].ready)

    def _future_block_until_ready(self, handle: int) -> None:
        ready = threading.Event()
        self._handles[handle].then(lambda _: ready.set())
        ready.wait()

    def _future_set_callback(self, handle: int, callback: Callable[[Any], None], argument: Any) -> None:
        self._handles[handle].then(lambda _: callback(argument))

    def _future_get_error(self, handle: int) -> int:
        future = self._handles[handle]
        return int(future.code) if future.ready else 2015

    def _future_get_int64(self, handle: int, out: Any) -> None:
        out._obj.value = self._handles[handle].result()

    _future_get_uint64 = _future_get_int64

    def _future_get_key(self, handle: int, out: Any, length: Any) -> None:
        future = self._handles[handle]
        _lend(future, future.result(), out, length)

    def _future_get_value(self, handle: int, present: Any, out: Any, length: Any) -> None:
        future = self._handles[handle]
        value = future.result()
        present._obj.value = int(value is not None)
        if value is not None:
            _lend(future, value, out, length)

    def _future_get_keyvalue_array(self, handle: int, out: Any, count: Any, more: Any) -> None:
        future = self._handles[handle]
        rows, has_more = future.result()
        data, parts = _joined([part for row in rows for part in row])
        table = b"".join(
            _ROW.pack(*key, *value) for key, value in zip(parts[::2], parts[1::2], strict=True)
        )  # fmt: skip
        _lend_table(future, data, table, out)
        count._obj.value, more._obj.value = len(rows), int(has_more)

    def _future_get_key_array(self, handle: int, out: Any, count: Any) -> None:
        future = self._handles[handle]
        keys = future.result()
        data, parts = _joined(keys)
        _lend_table(future, data, b"".join(_KEY.pack(*part) for part in parts), out)
        count._obj.value = len(keys)

    # Databases

    def _create_database(self, file: bytes | None, out: Any) -> None:
        if self._network is None:
            raise Refusal(codes.NETWORK_NOT_SETUP)
        out._obj.value = self._handles.new(Database(self._network, file))

    def _database_destroy(self, handle: Any) -> None:
        self._handles.drop(handle)

    def _database_set_option(self, handle: Any, option: int, value: bytes | None, length: int) -> None:
        self._handles[handle].set_option(option, value)

    def _database_create_transaction(self, handle: Any, out: Any) -> None:
        out._obj.value = self._handles.new(Transaction(self._handles[handle]))

    def _database_get_client_status(self, handle: Any) -> int:
        healthy = b"true" if not self._handles[handle].code else b"false"
        future = Future()
        future.set(b'{"Healthy": ' + healthy + b"}")
        return self._new(future)

    # Transactions

    def _transaction_destroy(self, handle: int) -> None:
        """The binding destroys each twice: a transaction and its snapshot are two objects over one."""
        try:
            transaction = self._handles[handle]
        except KeyError:
            return
        self._handles.drop(handle)
        transaction.cancel()

    def _transaction_cancel(self, handle: int) -> None:
        self._handles[handle].cancel()

    def _transaction_reset(self, handle: int) -> None:
        self._handles[handle].reset()

    def _transaction_set_option(self, handle: int, option: int, value: bytes | None, length: int) -> None:
        self._handles[handle].set_option(option, value)

    def _transaction_set_read_version(self, handle: int, version: int) -> None:
        self._handles[handle].set_read_version(version)

    def _transaction_get_read_version(self, handle: int) -> int:
        return self._new(self._handles[handle].get_read_version())

    def _transaction_get(self, handle: int, key: bytes, length: int, snapshot: int) -> int:
        return self._new(self._handles[handle].get(key, bool(snapshot)))

    def _transaction_get_key(
        self, handle: int, key: bytes, length: int, or_equal: int, offset: int, snapshot: int
    ) -> int:
        return self._new(self._handles[handle].get_key((key, bool(or_equal), offset), bool(snapshot)))

    def _transaction_get_range(self, handle: int, begin: bytes, begin_length: int, begin_or_equal: int,
                               begin_offset: int, end: bytes, end_length: int, end_or_equal: int, end_offset: int,
                               limit: int, target: int, mode: int, iteration: int, snapshot: int,
                               reverse: int) -> int:  # fmt: skip
        try:
            target = _target(target, mode, iteration, limit)
        except Refusal as refusal:
            return self._new(failed(refusal.code))
        found = self._handles[handle].get_range(
            (begin, bool(begin_or_equal), begin_offset),
            (end, bool(end_or_equal), end_offset),
            limit=limit,
            target=target,
            snapshot=bool(snapshot),
            reverse=bool(reverse),
        )
        return self._new(found)

    def _transaction_set(self, handle: int, key: bytes, key_length: int, value: bytes, value_length: int) -> None:
        self._handles[handle].set(key, value)

    def _transaction_clear(self, handle: int, key: bytes, length: int) -> None:
        self._handles[handle].clear(key)

    def _transaction_clear_range(self, handle: int, begin: bytes, begin_length: int, end: bytes, length: int) -> None:
        self._handles[handle].clear_range(begin, end)

    def _transaction_atomic_op(
        self, handle: int, key: bytes, key_length: int, operand: bytes, length: int, kind: int
    ) -> None:
        self._handles[handle].atomic_op(kind, key, operand)

    def _transaction_add_conflict_range(
        self, handle: int, begin: bytes, begin_length: int, end: bytes, end_length: int, kind: int
    ) -> None:
        self._handles[handle].add_conflict_range(begin, end, writes=kind == 1)

    def _transaction_watch(self, handle: int, key: bytes, length: int) -> int:
        return self._new(self._handles[handle].watch(key))

    def _transaction_commit(self, handle: int) -> int:
        return self._new(self._handles[handle].commit())

    def _transaction_on_error(self, handle: int, code: int) -> int:
        return self._new(self._handles[handle].on_error(code))

    def _transaction_get_committed_version(self, handle: int, out: Any) -> None:
        out._obj.value = self._handles[handle].get_committed_version()

    def _transaction_get_versionstamp(self, handle: int) -> int:
        return self._new(self._handles[handle].get_versionstamp())

    def _transaction_get_approximate_size(self, handle: int) -> int:
        return self._new(self._handles[handle].get_approximate_size())


def _missing(*args: Any) -> int:
    return codes.UNSUPPORTED_OPERATION


def _target(target: int, mode: int, iteration: int, limit: int) -> int:
    """The bytes that an answer is cut off at; 0 is none."""
    if mode == -2:
        mode = 4
    if mode == 0 and limit == 0 and target == 0:
        raise Refusal(codes.EXACT_MODE_WITHOUT_LIMITS)
    if mode == -1:
        if iteration <= 0:
            raise Refusal(codes.CLIENT_INVALID_OPERATION)
        wanted = _ITERATOR[min(iteration, len(_ITERATOR)) - 1]
    elif 0 <= mode <= 4:
        wanted = _TARGETS[mode]
    else:
        raise Refusal(codes.CLIENT_INVALID_OPERATION)
    return min(target, wanted) if target and wanted else target or wanted


def _lend(future: Future, value: bytes, out: Any, length: Any) -> None:
    """Let the caller read the value where the library keeps it, as long as it keeps the future."""
    memory = bytearray(value) + b"\0"
    out._obj.contents = type(out._obj.contents).from_buffer(memory)
    length._obj.value = len(value)
    future.kept = memory


def _joined(parts: list[bytes]) -> tuple[Any, list[tuple[int, int]]]:
    """All of them in one piece of memory, and where each lies in it with its length."""
    data = ctypes.create_string_buffer(b"".join(parts), sum(map(len, parts)) + 1)
    at, places = ctypes.addressof(data), []
    for part in parts:
        places.append((at, len(part)))
        at += len(part)
    return data, places


def _lend_table(future: Future, data: Any, table: bytes, out: Any) -> None:
    kind = type(out._obj.contents)
    memory = bytearray(table) + bytes(ctypes.sizeof(kind))
    out._obj.contents = kind.from_buffer(memory)
    future.kept = (data, memory)
