"""The schema and the SQL of the SQLite store, in one place."""

# ruff: noqa: S608 - statements are put together from constants, never from what people give
# All placeholders are plain ?: Python 3.12.0 to 3.12.3 take numbered ones for named ones, and warn of them.

from __future__ import annotations

from typing import Final

APPLICATION: Final = 0x534B4E51  # "SKNQ", in the header of the file: marks the file as ours
MAJOR: Final = 1
MINOR: Final = 0

# The main table is run. A lane is a (queue, route), with its counts. The column run.shelf divides the index run_ripe:
# it is the number of the lane while the run is open, and minus its state once it has ended. So one index finds what
# to claim, what to purge and what failed. What few runs have (a unique key, an expiry, a long body) is in tables of its
# own: an index that includes a state makes putting and claiming a tenth slower, even where it is empty.
SCHEMA: Final = (
    """CREATE TABLE lane (
        n INTEGER PRIMARY KEY, queue TEXT NOT NULL, route TEXT NOT NULL,
        queued INTEGER NOT NULL DEFAULT 0, running INTEGER NOT NULL DEFAULT 0, succeeded INTEGER NOT NULL DEFAULT 0,
        failed INTEGER NOT NULL DEFAULT 0, cancelled INTEGER NOT NULL DEFAULT 0, UNIQUE (queue, route))""",
    "CREATE INDEX lane_route ON lane (route)",
    """CREATE TABLE run (
        id TEXT PRIMARY KEY, lane INTEGER NOT NULL, shelf INTEGER NOT NULL, ripe REAL NOT NULL,
        state INTEGER NOT NULL DEFAULT 0, due REAL NOT NULL, expires REAL, uniq, keep REAL NOT NULL,
        token TEXT, worker, lapses INTEGER NOT NULL DEFAULT 0, notes BLOB, error, progress REAL, note, ended REAL,
        value BLOB, body BLOB)""",
    "CREATE INDEX run_ripe ON run (shelf, ripe, id)",
    "CREATE TABLE long (id TEXT PRIMARY KEY, body BLOB NOT NULL)",
    "CREATE TABLE taken (lane INTEGER, uniq, id TEXT NOT NULL, PRIMARY KEY (lane, uniq)) WITHOUT ROWID",
    "CREATE TABLE expiring (expires REAL, id TEXT, PRIMARY KEY (expires, id)) WITHOUT ROWID",
    "CREATE TABLE worker (name PRIMARY KEY, about NOT NULL, until REAL NOT NULL) WITHOUT ROWID",
    # AUTOINCREMENT, because a worker may name an order as seen twice: its id must never come again.
    "CREATE TABLE told (n INTEGER PRIMARY KEY AUTOINCREMENT, worker NOT NULL, text NOT NULL)",
    "CREATE INDEX told_worker ON told (worker, n)",
    "CREATE TABLE clock (boot TEXT PRIMARY KEY, base REAL NOT NULL, anchor REAL NOT NULL) WITHOUT ROWID",
    f"PRAGMA application_id = {APPLICATION}",
    f"PRAGMA user_version = {MAJOR * 1000 + MINOR}",
)

TABLES: Final = frozenset({"lane", "run", "long", "taken", "expiring", "worker", "told", "clock", "store"})

STORE_ID = "SELECT id FROM store LIMIT 1"
# Files of an early version have no such table.
GIVE_ID: Final = (
    "CREATE TABLE IF NOT EXISTS store (id TEXT NOT NULL)",
    "INSERT INTO store (id) SELECT lower(hex(randomblob(16))) WHERE NOT EXISTS (SELECT 1 FROM store)",
)

QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = range(5)

COUNT_IN = "UPDATE lane SET queued = queued + ? WHERE queue = ? AND route = ? RETURNING n"
NEW_LANE = "INSERT INTO lane (queued, queue, route) VALUES (?, ?, ?) RETURNING n"
COUNT = """
    UPDATE lane SET queued = queued + ?, running = running + ?, succeeded = succeeded + ?, failed = failed + ?,
        cancelled = cancelled + ?
    WHERE queue = ? AND route = ?"""
COUNT_OUT = {
    state: f"UPDATE lane SET {name} = {name} - ? WHERE n = ?"
    for state, name in ((SUCCEEDED, "succeeded"), (FAILED, "failed"), (CANCELLED, "cancelled"))
}
LANE = "(SELECT n FROM lane WHERE queue = ? AND route = ?)"

LANES_AT_ONCE: Final = 60
THERE = f"SELECT route FROM lane WHERE queue = ? AND route IN ({', '.join(['?'] * LANES_AT_ONCE)})"
LANE_NUMBER = "SELECT n FROM lane WHERE queue = ? AND route = ?"

PUT = """
    INSERT INTO run (id, lane, shelf, ripe, due, expires, uniq, keep, body)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"""
PUT_LONG = "INSERT INTO long (id, body) VALUES (?, ?)"
PUT_EXPIRING = "INSERT OR IGNORE INTO expiring (expires, id) VALUES (?, ?)"
TAKE_KEY = "INSERT INTO taken (lane, uniq, id) VALUES (?, ?, ?)"
KEY_HOLDER = "SELECT id FROM taken WHERE lane = ? AND uniq = ?"

RIPE = f"""
    SELECT id, due, body, expires, uniq, keep, lapses, notes, state FROM run
    WHERE shelf = {LANE} AND ripe <= ? ORDER BY ripe, id LIMIT ?"""
LEASE = f"""
    UPDATE run SET lapses = lapses + state, state = {RUNNING}, ripe = ?, token = ?, worker = ?
    WHERE rowid IN (SELECT rowid FROM run WHERE shelf = {LANE} AND ripe <= ? ORDER BY ripe, id LIMIT ?)"""
MEND_ID = "UPDATE OR IGNORE run SET id = ? WHERE id = CAST(? AS TEXT) OR id = ?"
SAME_ID = "SELECT rowid FROM run WHERE id = CAST(? AS TEXT) OR id = ?"
FORGET_ID = "DELETE FROM run WHERE (id = CAST(? AS TEXT) OR id = ?) AND id <> ?"
NEXT_RIPE = f"SELECT ripe FROM run WHERE shelf = {LANE} ORDER BY ripe LIMIT 1"
HELD = f"SELECT id FROM run WHERE token = ? AND state = {RUNNING} ORDER BY id LIMIT ?"

QUEUED_ON = """
    SELECT sum(queued), sum(queued + running + succeeded + failed + cancelled) FROM lane
    WHERE queue = ? AND route IN (?, ?, ?, ?)"""
LAST_TOLD = "SELECT max(n) FROM told WHERE worker = ?"
EXPIRES = f"SELECT expires, ripe, state = {RUNNING} FROM run WHERE id = ? AND state <= {RUNNING}"
IS_OPEN = f"SELECT 1 FROM run WHERE id = ? AND state <= {RUNNING}"

MINE = f"WHERE id = ? AND token = ? AND state = {RUNNING}"
EXTEND = f"UPDATE run SET ripe = max(ripe, ?) {MINE}"
BEARER = "SELECT token FROM run WHERE id = ?"
COMPLETE = f"""
    UPDATE run SET shelf = -{SUCCEEDED}, state = {SUCCEEDED}, ripe = ?, ended = ?, value = ?, error = NULL,
        notes = ifnull(?, notes) {MINE}"""
FAIL = f"""
    UPDATE run SET shelf = -{FAILED}, state = {FAILED}, ripe = ?, ended = ?, value = ?, error = ?,
        notes = ifnull(?, notes) {MINE}"""
AGAIN = f"""
    UPDATE run SET state = {QUEUED}, ripe = ifnull(?, min(due, ?)), worker = NULL, error = ?,
        notes = ifnull(?, notes) {MINE}"""
UNTOUCHED = f"""
    UPDATE run SET state = {QUEUED}, ripe = min(due, ?), worker = NULL, notes = ifnull(?, notes) {MINE}"""
STARTED = f"UPDATE run SET notes = ifnull(?, notes) {MINE}"
PROGRESS = f"UPDATE run SET progress = ?, note = ?, notes = ifnull(?, notes) {MINE}"

CANCEL = f"""
    UPDATE run SET shelf = -{CANCELLED}, state = {CANCELLED}, ripe = ?, ended = ?, value = NULL, error = ?,
        token = NULL WHERE id = ?"""
REOPEN = f"""
    UPDATE run SET shelf = lane, state = {QUEUED}, ripe = ?, token = NULL, worker = NULL, lapses = 0, notes = NULL,
        value = NULL, error = NULL, progress = NULL, note = NULL, ended = NULL WHERE id = ?"""
PROMOTE = f"UPDATE run SET ripe = ? WHERE id = ? AND state = {QUEUED} AND ripe > ?"
DISCARD = f"UPDATE run SET ripe = min(ripe, max(?, ifnull(ended, 0) + ?)) WHERE id = ? AND state > {RUNNING}"
RELEASE_KEY = "DELETE FROM taken WHERE lane = (SELECT lane FROM run WHERE id = ?) AND uniq = ? AND id = ?"
RELEASE_EXPIRING = "DELETE FROM expiring WHERE expires = ? AND id = ?"

RECORD = """
    SELECT run.id, queue, route, due, body, expires, uniq, keep, state, ripe, token, worker, lapses, notes, value,
        error, progress, note, ended
    FROM run LEFT JOIN lane ON lane.n = run.lane WHERE"""
RECORD_OF = f"{RECORD} run.id = ?"
RECORD_AT = f"{RECORD} run.rowid = ?"
FOUND = RECORD + " run.rowid IN ({}) ORDER BY run.id DESC"
# A value that is too long to be shown is not read: its length stands at the start of the row.
BRIEF = RECORD.replace("value", "CASE WHEN length(value) <= ? THEN value END")
BRIEF_OF = f"{BRIEF} run.id = ?"
BRIEF_AT = f"{BRIEF} run.rowid = ?"
BRIEF_FOUND = BRIEF + " run.rowid IN ({}) ORDER BY run.id DESC"
# A plus sign keeps SQLite from using the index on that column. The first query reads all runs by id; the second reads
# one shelf and sorts it.
FIND_WALKING = "SELECT rowid FROM run WHERE id < ? AND {} ORDER BY id DESC LIMIT ?"
FIND_SORTING = "SELECT rowid FROM run WHERE +id < ? AND {} ORDER BY +id DESC LIMIT ?"
COUNTS = "SELECT queue, route, queued, running, succeeded, failed, cancelled, n FROM lane"
NO_TEXT = "queue >= x'' OR route >= x''"
# Damaged counts cost neither an error nor an overflow.
TOTALS = "SELECT total(queued), total(running), total(succeeded), total(failed), total(cancelled) FROM lane WHERE"
BODY = "SELECT body FROM long WHERE id = ?"
PLACE_OF_BODY = "SELECT rowid FROM long WHERE id = ?"
# The body is behind the value. Where that is long, it goes elsewhere, as it could not be read without the value.
MOVE_BODY = """
    INSERT OR IGNORE INTO long (id, body)
    SELECT id, body FROM run WHERE id = ? AND token = ? AND typeof(body) = 'blob'"""
DROP_BODY = "UPDATE run SET body = NULL WHERE id = ? AND token = ?"

OVER = """
    SELECT id, lane, -shelf, typeof(body) <> 'blob' FROM run WHERE shelf = ? AND ripe <= ? ORDER BY ripe, id LIMIT ?"""
# In a damaged file, a value that is not a number sorts after all numbers.
NEVER_OVER = "SELECT id, lane, -shelf, 1 FROM run WHERE shelf = ? AND ripe > 9e999 LIMIT ?"
# All shelves that hold runs are found one after the other in the index. What lies on any other than those of lanes and
# states is damaged.
STRANGE = f"""
    WITH RECURSIVE shelves (n) AS (
        SELECT (SELECT shelf FROM run ORDER BY shelf LIMIT 1)
        UNION ALL
        SELECT (SELECT shelf FROM run WHERE shelf > shelves.n ORDER BY shelf LIMIT 1) FROM shelves WHERE n IS NOT NULL)
    SELECT run.id FROM shelves JOIN run ON run.shelf = shelves.n
    WHERE n NOT IN (SELECT n FROM lane) AND n NOT IN ({-SUCCEEDED}, {-FAILED}, {-CANCELLED}) LIMIT ?"""
PUT_BACK = "UPDATE run SET shelf = ?, ripe = ? WHERE id = ?"
PAST_EXPIRES = f"""
    SELECT expiring.id FROM expiring JOIN run ON run.id = expiring.id
    WHERE expiring.expires <= ? AND (state = {QUEUED} OR state = {RUNNING} AND ripe <= ?)
    ORDER BY expiring.expires, expiring.id LIMIT ?"""
FORGET_WORKER = "DELETE FROM worker WHERE name = ? OR name = CAST(? AS TEXT)"
GONE = "SELECT name FROM worker WHERE until <= ? ORDER BY name LIMIT ?"
ADDRESSED = """
    SELECT n FROM lane WHERE route >= '@' AND route < 'A' AND queued + running > 0
        AND substr(route, 2, instr(route || '^', '^') - 2) NOT IN (SELECT name FROM worker WHERE until > ?)"""
UNLEASED = f"SELECT id FROM run WHERE shelf = ? AND (state = {QUEUED} OR ripe <= ?) ORDER BY id LIMIT ?"

CLOCK = "SELECT base, anchor FROM clock WHERE boot = ?"
SET_CLOCK = "INSERT INTO clock (boot, base, anchor) VALUES (?, ?, ?)"
BUSY_LANES = "SELECT n FROM lane WHERE running > 0"
END_LEASES = f"UPDATE run SET ripe = min(ripe, ?) WHERE shelf = ? AND state = {RUNNING}"
MOVE_LEASES = f"UPDATE run SET ripe = ripe + ? WHERE shelf = ? AND state = {RUNNING}"
END_BEATS = "UPDATE worker SET until = min(until, ?)"
MOVE_BEATS = "UPDATE worker SET until = until + ?"
SENT_AFTER = f"SELECT id, due, expires FROM run WHERE id >= ? AND state <= {RUNNING}"
WOULD_EXPIRE = f"""
    SELECT run.id, run.due, run.expires FROM expiring JOIN run ON run.id = expiring.id
    WHERE expiring.expires > ? AND expiring.expires <= ? AND run.id >= ? AND run.id < ? AND state <= {RUNNING}"""
MOVE_DUE = f"""
    UPDATE run SET ripe = CASE WHEN state = {QUEUED} AND ripe = due THEN ripe + ? ELSE ripe END, due = due + ?,
        expires = expires + ?
    WHERE id = ?"""
