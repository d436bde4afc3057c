"""What commands print: valid and whole whatever a run holds, harmless to a terminal, and no end of their work."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skunkqueue import SkunkQueue, cli
from skunkqueue.cli import desk, rows
from skunkqueue.cli.jsonable import jsonable
from skunkqueue.codec import encode_value
from skunkqueue.envelope import Envelope, Outcome, Want
from skunkqueue.errors import StoreAway
from skunkqueue.ids import new_id, new_token
from skunkqueue.persistence.sqlite import SQLitePersister

ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e"


def strictly(text):
    """As the strictest reader of JSON: no NaN, no lone surrogate."""
    found = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    json.dumps(found, ensure_ascii=False).encode()
    return found


class Odd:
    def __repr__(self):
        raise RuntimeError("no")

    __str__ = __repr__


class OddKey(Odd):
    pass


def nested(depth, kind=list):
    value = None
    for _ in range(depth):
        value = [value] if kind is list else {"a": value}
    return value


CYCLE = []
CYCLE.append({"me": CYCLE})

ODD = {
    "nan": [float("nan"), float("-inf"), -0.0],
    "huge int": [1 << 100_000, -(1 << 20_000), 1 << 64],
    "lone surrogate": ["\ud800", {"\udfff": "\udc80"}],
    "bytes": b"\xff\x00\x1b",
    "sets": [{1, 2}, frozenset({("a", b"b")})],
    "keys": {1: "a", "1": "b", None: "c", (1, 2): "d", b"e": "f", 1.5: "g"},
    "times": [datetime(1, 1, 1), datetime.max.replace(tzinfo=UTC), date(9999, 1, 1), timedelta.min],
    "numbers": [Decimal("NaN"), Decimal("sNaN"), Decimal("1e999999"), UUID(int=0)],
    "deep list": nested(450),
    "deep dict": nested(450, dict),
    "escapes": [ESCAPES, {ESCAPES: ESCAPES}],
}
UNCARRIED = {"cycle": CYCLE, "repr raises": [Odd(), {OddKey(): Odd()}], "deeper": nested(100_000), "type": Odd}
"""What no plain result can be, but what a document is asked for all the same."""

plain = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters(exclude_categories=[])),
        st.binary(), st.decimals(), st.datetimes(), st.timedeltas(), st.uuids(),
    ),
    lambda each: st.lists(each) | st.dictionaries(st.one_of(st.text(), st.integers(), st.binary()), each),
)  # fmt: skip


@pytest.mark.parametrize("name", [*ODD, *UNCARRIED])
def test_any_value_has_a_valid_document(name):
    value = {**ODD, **UNCARRIED}[name]

    assert strictly(json.dumps({"result": jsonable(value)}, indent=2)).keys() == {"result"}


@settings(deadline=None)
@given(plain)
def test_any_plain_value_has_a_valid_document(value):
    strictly(json.dumps(jsonable(value)))


def test_keys_that_are_written_alike_are_all_there():
    assert len(jsonable(ODD["keys"])) == len(ODD["keys"])


# -- through the commands


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/runs.db"


@pytest.fixture
def queue(url):
    with SkunkQueue("demo", url) as queue:
        yield queue


def skunq(url, *words, code=0):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
        cli.main([*words, "--url", url])
    assert ended.value.code == code, err.getvalue()
    return out.getvalue(), err.getvalue()


def end(queue, run, outcome):
    now = queue.clock.now()
    (claim,) = queue.store.claim([Want("demo", ("default",), "w", new_token(), 1)], now=now, until=now + 60)
    assert claim.id == run.id
    queue.store.commit([(claim, outcome)], now=now)


@pytest.fixture
def odd_runs(queue):
    """A run of each odd result, one that failed, and one whose envelope nobody can read."""
    job = queue.event(print)
    for value in ODD.values():
        end(queue, job.fire(), Outcome.complete(encode_value(value)))
    details = encode_value({"type": ESCAPES, "message": ESCAPES, "traceback": f"Trace\n{ESCAPES}"})
    end(queue, job.fire(), Outcome.failed(f"E: {ESCAPES}", value=details))
    end(queue, job.fire(), Outcome.complete(b"m" + msgpack.packb(msgpack.ExtType(5, b"short"))))
    now = queue.clock.now()
    queue.put([Envelope(new_id(now), "demo", "default", now, ESCAPES.encode(), unique=f"a\n{ESCAPES}")])
    return queue.runs(limit=None)


def test_a_list_of_odd_runs_is_one_valid_document_and_each_can_be_shown(url, odd_runs):
    listed = strictly(skunq(url, "runs", "--json")[0])

    assert [row["id"] for row in listed] == [run.id for run in odd_runs]
    for run in odd_runs:
        assert strictly(skunq(url, "show", run.id, "--json")[0])["id"] == run.id


def test_a_run_that_cannot_be_shown_at_all_spoils_no_list(url, odd_runs, monkeypatch):
    def broken(record):
        if record.id == odd_runs[3].id:
            raise RuntimeError("no")
        return ""

    monkeypatch.setattr(rows, "unique_of", broken)
    monkeypatch.setattr(rows, "job_of", broken)
    listed = strictly(skunq(url, "runs", "--json")[0])

    assert [row["id"] for row in listed] == [run.id for run in odd_runs]
    assert listed[3].keys() == listed[2].keys()
    assert listed[3]["error"] == "<cannot be shown: RuntimeError>"
    assert all(run.id[-8:] in skunq(url, "runs")[0] for run in odd_runs)


def test_a_list_that_breaks_off_is_a_valid_document_all_the_same(url, odd_runs, monkeypatch):
    def away(self, *args, after=None, **options):
        if after is not None:
            raise StoreAway("gone")
        return find(self, *args, after=after, **options)

    find = SQLitePersister.find_brief
    monkeypatch.setattr(SQLitePersister, "find_brief", away)
    monkeypatch.setattr(desk, "PAGE", 5)
    out, err = skunq(url, "runs", "--json", "-n", "100", code=1)

    assert len(strictly(out)) == 5
    assert err == "Error: gone\n"


COMMANDS = [
    ["runs"], ["runs", "--json"], ["runs", "--state", ESCAPES], ["runs", "--job", ESCAPES],
    [ESCAPES], [f"--{ESCAPES}"], ["workers"], ["workers", "--json"], ["cancel", ESCAPES], ["retry", "0", "--failed"],
    ["work", "-q", "demo", ESCAPES], ["work", "-q", "demo", "--import", ESCAPES, "--burst"],
    ["spool", ESCAPES], ["spool", "x", "-m", ESCAPES], ["spool", "retry", ESCAPES],
]  # fmt: skip


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: repr(" ".join(words)))
def test_no_command_says_anything_that_a_terminal_would_obey(url, queue, odd_runs, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    about = json.dumps({"queue": "demo", "routes": [ESCAPES], "host": ESCAPES, "pid": 1, "running": [ESCAPES]})
    queue.store.beat(f"w{ESCAPES}", about, until=queue.clock.now() + 60)
    env = {**os.environ, "SKUNKQUEUE_URL": url}

    said = subprocess.run([sys.executable, "-m", "skunkqueue.cli", *words], capture_output=True, env=env, timeout=60)

    for text in (said.stdout.decode(), said.stderr.decode()):
        assert [line for line in text.split("\n") if not line.replace("\t", "").isprintable()] == []
    assert "Traceback" not in said.stderr.decode()


def test_show_says_nothing_that_a_terminal_would_obey(url, odd_runs):
    for run in odd_runs:
        out, _ = skunq(url, "show", run.id)
        assert [line for line in out.split("\n") if not line.replace("\t", "").isprintable()] == []


# -- where the output goes


def shell(url, line):
    line = line.replace("skunq", f"{sys.executable} -m skunkqueue.cli")
    env = {**os.environ, "SKUNKQUEUE_URL": url}
    return subprocess.run(
        ["/bin/bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, env=env, timeout=60
    )


@pytest.mark.parametrize("where", ["| head -1", "| true", ">&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("words", ["runs -n 3000", "runs -n 3000 --json", "cancel ID", "--help"])
def test_commands_end_as_their_work_does_whoever_reads_them(url, queue, where, words):
    ids = [run.id for run in queue.event(print).fire_many([()] * 700)]

    done = shell(url, f"skunq {words} {where}".replace("ID", f"{ids[0]} {ids[1]}"))

    assert (done.returncode, done.stderr) == (0, "")
    if "cancel" in words:
        assert queue.count()["cancelled"] == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("cancel ID", 0),
        ("cancel ID --json", 0),
        ("cancel ID 0", 1),
        ("purge", 0),
        ("runs", 1),
        ("runs --json", 1),
        ("show ID", 1),
    ],
)
def test_what_cannot_be_written_is_said_and_the_work_is_done(url, queue, words, code):
    id = queue.event(print).fire().id

    done = shell(url, f"skunq {words} > /dev/full".replace("ID", id))

    assert done.returncode == code, done.stderr
    assert "Error: the output cannot be written: No space left on device\n" in done.stderr
    assert "Traceback" not in done.stderr
    assert queue.count()["cancelled"] == ("cancel" in words)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_a_complaint_that_cannot_be_written_changes_nothing(url, queue):
    id = queue.event(print).fire().id

    done = shell(url, f"skunq cancel 0 {id} 2> /dev/full")

    assert (done.returncode, done.stdout) == (1, f"{id} cancelled\n")


def test_a_closed_stdout_is_not_taken_for_a_file_of_the_store(url, queue):
    queue.event(print).fire()

    for words, code in (("runs", 0), ("runs --json", 0), ("workers", 1)):
        assert shell(url, f"skunq {words} >&- 2>&-").returncode == code

    assert [run.state for run in queue.runs()] == ["queued"]
