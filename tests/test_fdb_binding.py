"""What the store relies on of FoundationDB: the same on the fake and, with SKUNKQUEUE_TEST_FDB, on a real cluster."""

from __future__ import annotations

import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fdb_servers import age, binding, fresh_name, opened
from pools import LIMIT, until
from redis_server import free_port

fdb = binding()

Key = Callable[[bytes], bytes]


@pytest.fixture
def db(shared_fdb: str) -> Any:
    return opened(shared_fdb)


@pytest.fixture
def key(db: Any) -> Iterator[Key]:
    """Makes keys below a prefix of this test's own."""
    prefix = fresh_name().encode() + b"/"
    yield lambda name: prefix + name
    db.clear_range_startswith(prefix)


def code_of(call: Callable[[], Any]) -> int:
    """The code of the error that a call raises."""
    with pytest.raises(fdb.FDBError) as caught:
        call()
    return int(caught.value.code)


def commit_of(tr: Any) -> int:
    """The code that a commit ends with; 0 if it commits."""
    try:
        tr.commit().wait()
    except fdb.FDBError as error:
        return int(error.code)
    return 0


def names(rows: Any) -> list[bytes]:
    return [row.key.rpartition(b"/")[2] for row in rows]


def fill(db: Any, key: Key, count: int) -> None:
    @fdb.transactional
    def put(tr: Any) -> None:
        for number in range(count):
            tr[key(b"%03d" % number)] = b"v%d" % number

    put(db)


# What a transaction sees


def test_what_was_set_is_read_and_what_was_cleared_is_gone(db: Any, key: Key) -> None:
    db[key(b"a")] = b"1"
    db[key(b"b")] = b""
    db[key(b"c")] = b"3"
    del db[key(b"c")]

    assert db[key(b"a")] == b"1"
    assert db[key(b"b")] == b""
    assert db[key(b"c")] is None


def test_a_transaction_reads_its_own_writes_and_nobody_else_does(db: Any, key: Key) -> None:
    fill(db, key, 5)
    tr = db.create_transaction()
    tr[key(b"001x")] = b"new"
    del tr[key(b"002")]
    tr.add(key(b"n"), struct.pack("<q", 4))
    tr.add(key(b"n"), struct.pack("<q", 5))

    seen = tr.get_range(key(b"0"), key(b"1"), limit=4)

    assert names(seen) == [b"000", b"001", b"001x", b"003"]
    assert names(tr.get_range(key(b"0"), key(b"1"), limit=3, reverse=True)) == [b"004", b"003", b"001x"]
    assert tr[key(b"002")].value is None
    assert tr[key(b"n")].value == struct.pack("<q", 9)
    assert names(tr.snapshot.get_range(key(b"0"), key(b"002"))) == [b"000", b"001", b"001x"]
    assert names(db.get_range(key(b"0"), key(b"1"))) == [b"000", b"001", b"002", b"003", b"004"]


def test_snapshot_reads_can_be_told_not_to_see_own_writes(db: Any, key: Key) -> None:
    tr = db.create_transaction()
    tr.options.set_snapshot_ryw_disable()
    tr[key(b"a")] = b"1"

    assert tr.snapshot[key(b"a")].value is None
    assert tr[key(b"a")].value == b"1"


def test_a_transaction_reads_as_of_its_read_version(db: Any, key: Key) -> None:
    db[key(b"a")] = b"1"
    tr = db.create_transaction()
    version = tr.get_read_version().wait()
    db[key(b"a")] = b"2"
    db[key(b"b")] = b"2"

    assert tr[key(b"a")].value == b"1"
    assert names(tr[key(b"") : key(b"c")]) == [b"a"]
    again = db.create_transaction()
    again.set_read_version(version)
    assert again[key(b"a")].value == b"1"
    assert db[key(b"a")] == b"2"


def test_selectors_name_keys_by_their_neighbours(db: Any, key: Key) -> None:
    fill(db, key, 5)
    select = fdb.KeySelector
    tr = db.create_transaction()

    found = [
        tr.get_key(selector).value
        for selector in (
            select.first_greater_or_equal(key(b"002")),
            select.first_greater_than(key(b"002")),
            select.last_less_than(key(b"002")),
            select.last_less_or_equal(key(b"002")),
            select.first_greater_or_equal(key(b"0005")) + 2,
            select.last_less_or_equal(key(b"003")) - 2,
        )
    ]

    assert names(map(Row, found)) == [b"002", b"003", b"001", b"002", b"003", b"001"]
    del tr[key(b"003")]
    assert tr.get_key(select.first_greater_than(key(b"002"))).value == key(b"004")
    between = tr.get_range(select.first_greater_or_equal(key(b"0")) + 1, select.last_less_or_equal(key(b"004")))
    assert names(between) == [b"001", b"002"]


class Row:
    """Of a key, what looks like a row."""

    def __init__(self, key: bytes) -> None:
        self.key = key


@pytest.mark.parametrize("mode", ["want_all", "iterator", "small", "medium", "large", "serial"])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_range_gives_all_rows_in_order_whatever_comes_at_once(db: Any, key: Key, mode: str, reverse: bool) -> None:
    fill(db, key, 300)
    mode = getattr(fdb.StreamingMode, mode)
    tr = db.create_transaction()

    rows = list(tr.get_range(key(b""), key(b"\xff"), streaming_mode=mode, reverse=reverse))

    assert names(rows) == sorted((b"%03d" % number for number in range(300)), reverse=reverse)
    some = tr.get_range_startswith(key(b""), limit=250, streaming_mode=mode, reverse=reverse)
    assert names(some) == names(rows)[:250]


def test_exactly_so_many_rows_need_a_number(db: Any, key: Key) -> None:
    fill(db, key, 20)
    tr = db.create_transaction()
    exact = fdb.StreamingMode.exact

    assert len(list(tr.get_range(key(b""), key(b"\xff"), limit=7, streaming_mode=exact))) == 7
    assert code_of(lambda: list(tr.get_range(key(b""), key(b"\xff"), streaming_mode=exact))) == 2210


# Conflicts


def raced(db: Any, first: Callable[[Any], Any], between: Callable[[Any], Any]) -> int:
    """What becomes of a transaction when another commits between its reads and its commit."""
    tr = db.create_transaction()
    tr.get_read_version().wait()
    first(tr)
    between(db)
    return commit_of(tr)


def read(tr: Any, key: bytes) -> None:
    tr[key].wait()


def test_a_read_conflicts_with_a_write_that_came_between(db: Any, key: Key) -> None:
    def first(tr: Any) -> None:
        read(tr, key(b"a"))
        tr[key(b"mine")] = b""

    assert raced(db, first, lambda db: db.set(key(b"a"), b"")) == 1020
    assert raced(db, first, lambda db: db.set(key(b"b"), b"")) == 0
    assert raced(db, first, lambda db: db.clear_range(key(b""), key(b"b"))) == 1020  # even where nothing was
    assert raced(db, first, lambda db: db.add(key(b"a"), b"\1")) == 1020


def test_what_only_reads_never_conflicts(db: Any, key: Key) -> None:
    assert raced(db, lambda tr: read(tr, key(b"a")), lambda db: db.set(key(b"a"), b"")) == 0


def test_snapshot_reads_conflict_only_where_they_are_told_to(db: Any, key: Key) -> None:
    def snapshot(tr: Any) -> None:
        list(tr.snapshot[key(b"a") : key(b"c")])
        tr[key(b"mine")] = b""

    def claimed(tr: Any) -> None:
        snapshot(tr)
        tr.add_read_conflict_key(key(b"b"))

    def claimed_range(tr: Any) -> None:
        snapshot(tr)
        tr.add_read_conflict_range(key(b"b"), key(b"c"))

    assert raced(db, snapshot, lambda db: db.set(key(b"a"), b"")) == 0
    assert raced(db, claimed, lambda db: db.set(key(b"a"), b"")) == 0
    assert raced(db, claimed, lambda db: db.set(key(b"b"), b"")) == 1020
    assert raced(db, claimed_range, lambda db: db.set(key(b"bb"), b"")) == 1020
    assert raced(db, claimed_range, lambda db: db.set(key(b"c"), b"")) == 0


def test_a_range_read_conflicts_as_far_as_it_read(db: Any, key: Key) -> None:
    fill(db, key, 10)

    def whole(tr: Any) -> None:
        list(tr[key(b"000") : key(b"005")])
        tr[key(b"mine")] = b""

    def limited(tr: Any) -> None:
        list(tr.get_range(key(b"000"), key(b"009"), limit=3))
        tr[key(b"mine")] = b""

    def limited_from_behind(tr: Any) -> None:
        list(tr.get_range(key(b"000"), key(b"009"), limit=3, reverse=True))
        tr[key(b"mine")] = b""

    assert raced(db, whole, lambda db: db.set(key(b"0045"), b"")) == 1020
    assert raced(db, whole, lambda db: db.set(key(b"005"), b"")) == 0
    assert raced(db, limited, lambda db: db.set(key(b"0015"), b"")) == 1020
    assert raced(db, limited, lambda db: db.set(key(b"0025"), b"")) == 0
    assert raced(db, limited_from_behind, lambda db: db.set(key(b"0075"), b"")) == 1020
    assert raced(db, limited_from_behind, lambda db: db.set(key(b"0055"), b"")) == 0


def test_a_selector_conflicts_with_keys_it_went_over(db: Any, key: Key) -> None:
    fill(db, key, 10)

    def first(tr: Any) -> None:
        tr.get_key(fdb.KeySelector.first_greater_than(key(b"003"))).wait()
        tr[key(b"mine")] = b""

    assert raced(db, first, lambda db: db.set(key(b"0035"), b"")) == 1020
    assert raced(db, first, lambda db: db.set(key(b"0045"), b"")) == 0


def test_writes_without_reads_never_conflict(db: Any, key: Key) -> None:
    def first(tr: Any) -> None:
        tr[key(b"a")] = b"1"
        tr.add(key(b"n"), b"\1")

    def between(db: Any) -> None:
        db[key(b"a")] = b"2"
        db.add(key(b"n"), b"\1")

    assert raced(db, first, between) == 0
    assert (db[key(b"a")], db[key(b"n")]) == (b"1", b"\2")


def test_reading_what_one_has_set_oneself_is_no_read(db: Any, key: Key) -> None:
    def first(tr: Any) -> None:
        tr[key(b"a")] = b"1"
        read(tr, key(b"a"))
        tr.clear_range(key(b"b"), key(b"d"))
        list(tr[key(b"b") : key(b"d")])

    def counted(tr: Any) -> None:
        tr.add(key(b"a"), b"\1")
        read(tr, key(b"a"))

    assert raced(db, first, lambda db: db.set(key(b"a"), b"2")) == 0
    assert raced(db, first, lambda db: db.set(key(b"c"), b"2")) == 0
    assert raced(db, counted, lambda db: db.set(key(b"a"), b"2")) == 1020


def test_conflicts_of_writes_can_be_added_and_left_out(db: Any, key: Key) -> None:
    def reads_a(tr: Any) -> None:
        read(tr, key(b"a"))
        tr[key(b"mine")] = b""

    @fdb.transactional
    def says_it_wrote(tr: Any) -> None:
        tr.add_write_conflict_key(key(b"a"))

    @fdb.transactional
    def writes_in_secret(tr: Any) -> None:
        tr.options.set_next_write_no_write_conflict_range()
        tr[key(b"a")] = b"secret"

    assert raced(db, reads_a, says_it_wrote) == 1020
    assert raced(db, reads_a, writes_in_secret) == 0
    assert db[key(b"a")] == b"secret"


def test_of_those_who_take_the_same_row_one_gets_it(db: Any, key: Key) -> None:
    fill(db, key, 40)
    taken: list[bytes] = []

    @fdb.transactional
    def take(tr: Any) -> bytes | None:
        for row in tr.snapshot.get_range(key(b"0"), key(b"1"), limit=1):
            tr.add_read_conflict_key(row.key)
            del tr[row.key]
            return bytes(row.key)
        return None

    def work() -> None:
        while (found := take(db)) is not None:
            taken.append(found)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)

    assert sorted(taken) == [key(b"%03d" % number) for number in range(40)]


# Atomic operations


@pytest.mark.parametrize(
    ("operation", "old", "operand", "new"),
    [
        ("add", None, b"\5\0", b"\5\0"),
        ("add", b"\xff\0", b"\1\0", b"\0\1"),
        ("add", b"\xff\xff", b"\1\0", b"\0\0"),
        ("add", b"\1\2\3", b"\1", b"\2"),
        ("add", b"\1", b"\1\0\0", b"\2\0\0"),
        ("add", struct.pack("<q", 3), struct.pack("<q", -4), struct.pack("<q", -1)),
        ("bit_and", None, b"\3", b"\3"),
        ("bit_and", b"\6\7", b"\3", b"\2"),
        ("bit_and", b"\6", b"\3\3", b"\2\0"),
        ("bit_or", None, b"\3", b"\3"),
        ("bit_or", b"\6\7", b"\3", b"\7"),
        ("bit_xor", b"\6", b"\3\3", b"\5\3"),
        ("append_if_fits", None, b"ab", b"ab"),
        ("append_if_fits", b"ab", b"cd", b"abcd"),
        ("append_if_fits", b"a" * 99_999, b"cd", b"a" * 99_999),
        ("max", None, b"\1", b"\1"),
        ("max", b"\1\2", b"\2\1", b"\1\2"),
        ("max", b"\5\1", b"\2", b"\5"),
        ("max", b"\5", b"\2\0", b"\5\0"),
        ("min", None, b"\1", b"\1"),
        ("min", b"\1\2", b"\2\1", b"\2\1"),
        ("min", b"\5", b"\2\1", b"\5\0"),
        ("byte_max", b"\1\2", b"\2\1", b"\2\1"),
        ("byte_max", b"b", b"ab", b"b"),
        ("byte_min", b"b", b"ab", b"ab"),
        ("byte_min", None, b"ab", b"ab"),
        ("compare_and_clear", b"a", b"a", None),
        ("compare_and_clear", b"ab", b"a", b"ab"),
        ("compare_and_clear", None, b"a", None),
    ],
)
def test_atomic_operations(db: Any, key: Key, operation: str, old: Any, operand: bytes, new: Any) -> None:
    if old is not None:
        db[key(b"a")] = old
        db[key(b"b")] = old
    tr = db.create_transaction()
    getattr(tr, operation)(key(b"a"), operand)
    seen = tr[key(b"a")].value
    tr.cancel()

    getattr(db, operation)(key(b"b"), operand)

    assert seen == new
    assert db[key(b"b")] == new


def test_an_atomic_operation_that_cannot_be(db: Any, key: Key) -> None:
    tr = db.create_transaction()
    tr._atomic_operation(99, key(b"a"), b"")
    assert commit_of(tr) == 2018


# Versionstamps


def stamped_key(db: Any, key: Key, name: bytes, value: bytes) -> bytes:
    """Set a key that ends with its versionstamp; gives the stamp."""
    tr = db.create_transaction()
    tr.set_versionstamped_key(key(name) + b"\0" * 10 + struct.pack("<L", len(key(name))), value)
    stamp = tr.get_versionstamp()
    tr.commit().wait()
    return bytes(stamp.wait())


def test_versionstamped_keys_come_in_the_order_of_their_commits(db: Any, key: Key) -> None:
    stamps = [stamped_key(db, key, b"q", b"%d" % number) for number in range(10)]

    rows = db.get_range_startswith(key(b"q"))

    assert [row.value for row in rows] == [b"%d" % number for number in range(10)]
    assert [row.key for row in rows] == [key(b"q") + stamp for stamp in stamps]
    assert stamps == sorted(stamps)


def test_a_versionstamp_is_the_version_of_the_commit(db: Any, key: Key) -> None:
    tr = db.create_transaction()
    begun = tr.get_read_version().wait()
    tr.set_versionstamped_value(key(b"a"), b"<" + b"\0" * 10 + b">" + struct.pack("<L", 1))
    stamp = tr.get_versionstamp()
    tr.commit().wait()

    assert db[key(b"a")] == b"<" + stamp.wait() + b">"
    assert struct.unpack(">Q", stamp.wait()[:8]) == (tr.get_committed_version(),)
    assert tr.get_committed_version() > begun


def test_versionstamps_in_tuples(db: Any, key: Key) -> None:
    space = fdb.Subspace((), key(b"t"))
    tr = db.create_transaction()
    tr.set_versionstamped_key(space.pack_with_versionstamp((7, fdb.tuple.Versionstamp(user_version=3))), b"x")
    stamp = tr.get_versionstamp()
    tr.commit().wait()

    [row] = db[space.range()]

    assert space.unpack(row.key) == (7, fdb.tuple.Versionstamp(stamp.wait(), 3))


def test_what_will_be_stamped_cannot_be_read_before(db: Any, key: Key) -> None:
    tr = db.create_transaction()
    tr.set_versionstamped_key(key(b"q") + b"\0" * 10 + struct.pack("<L", len(key(b"q"))), b"")
    tr.set_versionstamped_value(key(b"v"), b"\0" * 14)

    assert code_of(tr[key(b"v")].wait) == 1036
    assert code_of(lambda: list(tr.get_range_startswith(key(b"q")))) == 1036
    assert names(tr[key(b"") : key(b"p")]) == []


def test_a_stamp_needs_its_place(db: Any, key: Key) -> None:
    tr = db.create_transaction()
    tr.set_versionstamped_key(key(b"q") + struct.pack("<L", 1000), b"")
    assert commit_of(tr) == 2000


def test_versionstamped_keys_conflict_with_those_who_read_there(db: Any, key: Key) -> None:
    def first(tr: Any) -> None:
        list(tr.get_range_startswith(key(b"q")))
        tr[key(b"mine")] = b""

    def blind(tr: Any) -> None:
        tr.set_versionstamped_key(key(b"q") + b"\0" * 10 + struct.pack("<L", len(key(b"q"))), b"")

    assert raced(db, first, lambda db: stamped_key(db, key, b"q", b"")) == 1020
    assert raced(db, blind, lambda db: stamped_key(db, key, b"q", b"")) == 0


def test_what_wrote_nothing_has_no_version(db: Any, key: Key) -> None:
    tr = db.create_transaction()
    read(tr, key(b"a"))
    stamp = tr.get_versionstamp()
    tr.commit().wait()

    assert tr.get_committed_version() == -1
    assert code_of(stamp.wait) == 2021


# Watches


def watched(db: Any, key: bytes) -> Any:
    tr = db.create_transaction()
    future = tr.watch(key)
    tr.commit().wait()
    return future


def fires(watch: Any) -> bool:
    return until(watch.is_ready) and watch.wait() is None


def test_a_watch_fires_when_the_value_changes(db: Any, key: Key) -> None:
    db[key(b"a")] = b"1"
    watches = [watched(db, key(b"a")), watched(db, key(b"none")), watched(db, key(b"n"))]
    time.sleep(0.2)
    assert not any(watch.is_ready() for watch in watches)

    db[key(b"other")] = b"1"
    del db[key(b"a")]
    db[key(b"none")] = b""
    db.add(key(b"n"), b"\1")

    assert all(fires(watch) for watch in watches)


def test_a_watch_stays_where_the_value_stays(db: Any, key: Key) -> None:
    db[key(b"a")] = b"1"
    watch, other = watched(db, key(b"a")), watched(db, key(b"b"))

    db[key(b"a")] = b"1"
    db.add(key(b"none"), b"\0")
    db[key(b"b")] = b"1"

    assert fires(other)
    assert not watch.is_ready()
    db[key(b"a")] = b"2"
    assert fires(watch)


def test_a_watch_sees_a_change_since_the_read_version(db: Any, key: Key) -> None:
    tr = db.create_transaction()
    watch = tr.watch(key(b"a"))
    read(tr, key(b"a"))
    db[key(b"a")] = b"1"
    tr.commit().wait()

    assert fires(watch)


def test_a_watch_waits_for_a_change_of_what_its_transaction_wrote(db: Any, key: Key) -> None:
    tr = db.create_transaction()
    tr[key(b"a")] = b"mine"
    watch = tr.watch(key(b"a"))
    tr.commit().wait()
    time.sleep(0.2)
    assert not watch.is_ready()

    db[key(b"a")] = b"other"

    assert fires(watch)


def test_a_watch_ends_with_a_transaction_that_does_not_commit(db: Any, key: Key) -> None:
    tr = db.create_transaction()
    watch = tr.watch(key(b"a"))
    tr.cancel()
    assert code_of(watch.wait) == 1025

    tr = db.create_transaction()
    watch = tr.watch(key(b"a"))
    tr.reset()
    assert code_of(watch.wait) == 1025


def test_a_watch_can_be_cancelled(db: Any, key: Key) -> None:
    watch = watched(db, key(b"a"))
    watch.cancel()
    assert code_of(watch.wait) == 1101


def test_watches_are_limited_in_number(shared_fdb: str, key: Key) -> None:
    db = fdb.impl.create_database(shared_fdb)
    db.options.set_max_watches(2)
    watches = [watched(db, key(b"a")), watched(db, key(b"b"))]

    assert code_of(watched(db, key(b"c")).wait) == 1032
    watches.pop().cancel()
    assert not watched(db, key(b"c")).is_ready()


def test_a_callback_hears_of_a_watch(db: Any, key: Key) -> None:
    heard = threading.Event()
    watched(db, key(b"a")).on_ready(lambda future: heard.set())

    db[key(b"a")] = b"1"

    assert heard.wait(LIMIT)


# Limits


def test_limits_of_keys_and_values(db: Any, key: Key) -> None:
    long = key(b"k") + b"k" * (10_000 - len(key(b"k")))
    db[long] = b"v" * 100_000

    for spoil, code in (
        (lambda tr: tr.set(long + b"k", b""), 2102),
        (lambda tr: tr.set(key(b"a"), b"v" * 100_001), 2103),
        (lambda tr: tr.add(long + b"k", b"\1"), 2102),
        (lambda tr: tr.add(key(b"a"), b"v" * 100_001), 2103),
        (lambda tr: tr.set(b"\xff/a", b""), 2004),
        (lambda tr: tr.clear_range(b"b", b"a"), 2005),
    ):
        tr = db.create_transaction()
        spoil(tr)
        assert commit_of(tr) == code
        assert code_of(lambda code=code: fdb.transactional(lambda tr, spoil=spoil: spoil(tr))(db)) == code

    assert db[long] == b"v" * 100_000
    tr = db.create_transaction()
    assert code_of(tr[b"\xff/a"].wait) == 2004


def test_a_wrong_write_spoils_the_reads_after_it(db: Any, key: Key) -> None:
    tr = db.create_transaction()
    tr[key(b"a")] = b"v" * 100_001
    assert code_of(tr[key(b"b")].wait) == 2103


def test_the_limit_of_a_transaction(db: Any, key: Key) -> None:
    def grown(pieces: int) -> Any:
        tr = db.create_transaction()
        for number in range(pieces):
            tr[key(b"%03d" % number)] = b"v" * 100_000
        return tr

    assert grown(98).get_approximate_size().wait() < 10_000_000
    assert commit_of(grown(98)) == 0
    assert commit_of(grown(101)) == 2101


def test_a_transaction_can_be_given_a_smaller_limit(db: Any, key: Key) -> None:
    tr = db.create_transaction()
    tr.options.set_size_limit(1000)
    tr[key(b"a")] = b"v" * 1001
    assert commit_of(tr) == 2101


@pytest.mark.parametrize(("option", "value"), [("size_limit", 31), ("size_limit", 10_000_001), ("timeout", -1)])
def test_an_option_that_cannot_be_spoils_the_transaction(db: Any, key: Key, option: str, value: int) -> None:
    tr = db.create_transaction()
    getattr(tr.options, f"set_{option}")(value)

    assert code_of(tr[key(b"a")].wait) == 2006
    assert code_of(tr.get_read_version().wait) == 2006
    assert commit_of(tr) == 2006
    tr.on_error(1020).wait()
    assert tr[key(b"a")].value is None


def test_conflict_ranges_count_towards_the_limit(db: Any, key: Key) -> None:
    tr = db.create_transaction()
    tr.options.set_size_limit(5000)
    tr[key(b"a")] = b""
    for number in range(100):
        tr.add_read_conflict_key(key(b"%03d" % number))
    assert commit_of(tr) == 2101


def test_a_transaction_ends_after_five_seconds(db: Any, shared_fdb: str, key: Key) -> None:
    db[key(b"a")] = b"1"
    reads, commits = db.create_transaction(), db.create_transaction()
    reads[key(b"a")].wait()
    commits[key(b"a")].wait()
    commits[key(b"b")] = b""
    age(shared_fdb, 6)

    assert code_of(reads[key(b"b")].wait) == 1007
    assert commit_of(commits) == 1007
    assert reads.on_error(fdb.FDBError(1007)).wait() is None
    assert reads[key(b"a")].value == b"1"


def test_a_version_of_the_future_has_to_be_waited_for(db: Any, key: Key) -> None:
    now, tr = db.create_transaction(), db.create_transaction()
    tr.set_read_version(now.get_read_version().wait() + 1_000_000_000)
    assert code_of(tr[key(b"a")].wait) == 1009


def test_read_versions_advance_about_a_million_a_second(db: Any, key: Key) -> None:
    def version() -> int:
        db[key(b"a")] = b""
        tr = db.create_transaction()
        return int(tr.get_read_version().wait())

    before, began = version(), time.monotonic()
    time.sleep(2)
    after, ended = version(), time.monotonic()

    assert 0.7e6 < (after - before) / (ended - began) < 1.3e6


# Errors, and trying again


@pytest.mark.parametrize("use", ["get", "set", "commit", "get_range"])
def test_a_transaction_is_used_up_by_its_commit(db: Any, key: Key, use: str) -> None:
    tr = db.create_transaction()
    tr[key(b"a")] = b""
    tr.commit().wait()

    if use == "set":
        tr[key(b"b")] = b""
        assert code_of(tr[key(b"a")].wait) == 2017
        return
    used = {"get": tr[key(b"a")].wait, "commit": tr.commit().wait, "get_range": lambda: list(tr[b"a":b"b"])}
    assert code_of(used[use]) == 2017


def test_on_error_makes_the_transaction_new_or_raises(db: Any, key: Key) -> None:
    for code in (1020, 1021, 1007, 1009, 1037, 1038):
        tr = db.create_transaction()
        tr[key(b"a")] = b"lost"
        tr.on_error(code).wait()
        tr[key(b"b")] = b""
        tr.commit().wait()
        assert db[key(b"a")] is None

    for code in (1031, 2101, 2102, 2017, 1025):
        tr = db.create_transaction()
        assert code_of(tr.on_error(code).wait) == code
        assert code_of(tr[key(b"a")].wait) == 1025


def test_error_predicates(db: Any) -> None:
    is_, error = fdb.predicates, fdb.FDBError
    assert [code for code in (1007, 1009, 1020, 1021, 1031, 1025, 2101, 2017) if is_.is_retryable(error(code))] == [
        1007,
        1009,
        1020,
        1021,
    ]
    assert is_.is_maybe_committed(error(1021))
    assert not is_.is_maybe_committed(error(1020))
    assert is_.is_retryable_not_committed(error(1020))
    assert not is_.is_retryable_not_committed(error(1021))
    assert error(1020).description == b"Transaction not committed due to conflict with another transaction"


def test_a_function_is_tried_until_it_commits(db: Any, key: Key) -> None:
    tries = 0

    @fdb.transactional
    def work(tr: Any) -> int:
        nonlocal tries
        tries += 1
        read(tr, key(b"a"))
        if tries < 4:
            db[key(b"a")] = b"%d" % tries
        tr[key(b"b")] = b"%d" % tries
        return tries

    assert work(db) == 4
    assert db[key(b"b")] == b"4"


def test_tries_can_be_limited(db: Any, key: Key) -> None:
    tr = db.create_transaction()
    tr.options.set_retry_limit(2)
    tr.on_error(1020).wait()
    tr.on_error(1020).wait()
    assert code_of(tr.on_error(1020).wait) == 1020


def test_pauses_between_tries_can_be_limited(db: Any) -> None:
    tr = db.create_transaction()
    tr.options.set_max_retry_delay(1)
    began = time.monotonic()
    for _ in range(20):
        tr.on_error(1020).wait()
    assert time.monotonic() - began < 5  # without the limit about 8 s


def test_a_transaction_that_was_cancelled_or_reset(db: Any, key: Key) -> None:
    tr = db.create_transaction()
    tr[key(b"a")] = b""
    tr.cancel()
    assert code_of(tr[key(b"a")].wait) == 1025
    assert commit_of(tr) == 1025
    assert code_of(tr.on_error(1020).wait) == 1025

    tr.reset()
    assert tr[key(b"a")].value is None


def test_a_timeout_ends_a_transaction_for_good(db: Any, key: Key) -> None:
    tr = db.create_transaction()
    tr.options.set_timeout(50)
    read(tr, key(b"a"))
    time.sleep(0.2)

    assert code_of(tr[key(b"b")].wait) == 1031
    assert commit_of(tr) == 1031
    assert code_of(tr.on_error(1031).wait) == 1031
    tr.reset()
    assert tr[key(b"a")].value is None


def test_trying_again_does_not_prolong_a_timeout(db: Any, key: Key) -> None:
    tr = db.create_transaction()
    tr.options.set_timeout(300)
    tr.on_error(1020).wait()
    time.sleep(0.4)
    assert code_of(tr[key(b"b")].wait) == 1031


def test_a_database_gives_its_transactions_their_timeout(shared_fdb: str, key: Key) -> None:
    db = fdb.impl.create_database(shared_fdb)
    db.options.set_transaction_timeout(50)
    tr = db.create_transaction()
    time.sleep(0.2)
    assert code_of(tr[key(b"a")].wait) == 1031


def test_reads_without_own_writes(db: Any, key: Key) -> None:
    tr = db.create_transaction()
    tr.options.set_read_your_writes_disable()
    tr[key(b"a")] = b"1"
    assert tr[key(b"a")].value is None
    assert code_of(tr.watch(key(b"a")).wait) == 1034

    tr = db.create_transaction()
    tr[key(b"a")] = b"1"
    tr.options.set_read_your_writes_disable()
    assert code_of(tr[key(b"a")].wait) == 2000


def test_a_read_version_is_set_once(db: Any, key: Key) -> None:
    tr = db.create_transaction()
    tr.get_read_version().wait()
    tr.set_read_version(5)
    assert code_of(tr[key(b"a")].wait) == 2010


# Clusters that are not there


def test_no_cluster_file(tmp_path: Path) -> None:
    db = fdb.open(str(tmp_path / "none.cluster"))
    tr = db.create_transaction()
    tr.options.set_timeout(5000)
    assert code_of(tr[b"a"].wait) == 1515


def test_a_cluster_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "bad.cluster").write_text("nonsense\n")
    tr = fdb.open(str(tmp_path / "bad.cluster")).create_transaction()
    tr.options.set_timeout(5000)
    assert code_of(tr[b"a"].wait) == 2104


def test_a_cluster_that_is_away_keeps_to_the_timeout(tmp_path: Path) -> None:
    (tmp_path / "away.cluster").write_text(f"away:away@127.0.0.1:{free_port()}\n")
    db = fdb.open(str(tmp_path / "away.cluster"))
    tr = db.create_transaction()
    tr.options.set_timeout(300)
    began = time.monotonic()

    assert code_of(tr[b"a"].wait) == 1031
    assert 0.2 < time.monotonic() - began < LIMIT
    tr = db.create_transaction()
    tr.options.set_timeout(300)
    tr[b"a"] = b""
    assert commit_of(tr) == 1031
    assert code_of(tr.on_error(1031).wait) == 1031


# Processes

_CHILD = """
import sys, fdb
fdb.api_version(710)
db = fdb.open(sys.argv[1])
"""


def child(program: str, *args: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", _CHILD + program, *args], stdout=subprocess.PIPE)


def test_processes_share_the_cluster(db: Any, shared_fdb: str, key: Key) -> None:
    watch = watched(db, key(b"done"))
    program = """
import struct
key = bytes.fromhex(sys.argv[2])
@fdb.transactional
def count(tr):
    old = struct.unpack("<q", tr[key + b"n"].value or bytes(8))[0]
    tr[key + b"n"] = struct.pack("<q", old + 1)
for _ in range(20):
    count(db)
db.add(key + b"done", b"\\1")
"""
    children = [child(program, shared_fdb, key(b"").hex()) for _ in range(3)]
    for process in children:
        process.communicate(timeout=LIMIT)
    assert [process.returncode for process in children] == [0, 0, 0]
    assert db[key(b"n")] == struct.pack("<q", 60)
    assert db[key(b"done")] == b"\3"
    assert fires(watch)


def test_the_network_of_a_process_does_not_work_in_a_child_that_it_forked(shared_fdb: str) -> None:
    program = """
import os, signal
db[b"skunk-fork"]
pid = os.fork()
if pid == 0:
    signal.alarm(1)
    db[b"skunk-fork"]
    os._exit(0)
print(os.waitpid(pid, 0)[1] & 127, db[b"skunk-fork"])
"""
    process = child(program, shared_fdb)
    assert process.communicate(timeout=LIMIT)[0].split() == [b"14", b"None"]  # killed by the alarm


# The layers over it


def test_directories_give_names_their_prefixes(db: Any) -> None:
    name = fresh_name()
    try:
        space = fdb.directory.create_or_open(db, (name, "a"))
        db[space.pack((1, "x"))] = b"1"

        assert fdb.directory.open(db, (name, "a")).key() == space.key()
        assert fdb.directory.exists(db, (name, "a"))
        assert [space.unpack(row.key) for row in db[space.range()]] == [(1, "x")]
        moved = fdb.directory.move(db, (name, "a"), (name, "b"))
        assert (moved.key(), fdb.directory.list(db, (name,))) == (space.key(), ["b"])
    finally:
        fdb.directory.remove_if_exists(db, (name,))
    assert not fdb.directory.exists(db, (name,))
    assert db[space.pack((1, "x"))] is None


def test_subspaces_and_tuples(db: Any, key: Key) -> None:
    space = fdb.Subspace(("q",), key(b"s"))
    for item in ((1,), (2, b"x"), (2, "y", 1.5), (3, None)):
        db[space.pack(item)] = b""

    assert [space.unpack(row.key) for row in db[space.range((2,))]] == [(2, b"x"), (2, "y", 1.5)]
    assert fdb.tuple.unpack(fdb.tuple.pack((1, "a", b"b", None, True))) == (1, "a", b"b", None, True)
