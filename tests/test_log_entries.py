"""What the log says: entries with fields and levels, for people, for logging and as JSON; nothing reaches it raw."""

from __future__ import annotations

import io
import json
import logging
import os
import re
from datetime import datetime, timedelta

import pytest

from skunkqueue import SkunkQueue, WorkerPool, WrongCall
from skunkqueue.printable import printable, printable_lines
from skunkqueue.spool import Hermes
from skunkqueue.worker import ERROR, INFO, WARNING, Log, LogEntry

STAMPED = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} ")
FORGED = "2026-01-01 00:00:00.000 default.1 finished payroll FORGED"
HOSTILE = {
    "a line end": f"a\n{FORGED}",
    "a carriage return": f"a\r{FORGED}",
    "a form feed and its kin": f"a\x0b\x0c\x1c\x1d\x1e\x85{FORGED}",
    "separators of Unicode": f"a\u2028\u2029{FORGED}",
    "an escape that clears the screen": "\x1b[2J\x1b]0;owned\x07",
    "an escape of eight bits": "\x9b2J\x9d0;owned\x9c",
    "what turns the direction of writing": "a\u202eb\u2066c\u200fd",
    "half a character": "a\udc80b\ud800",
    "a null, a backspace, a deletion": "a\x00\x08\x7f",
}
hostile = pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())


def is_fit(text):
    """One line that no terminal obeys."""
    return text.isprintable()


# -- cleaning ----------------------------------------------------------------------------------------------------------


@hostile
def test_a_text_is_made_fit_for_a_terminal_and_can_be_told_from_what_it_was(text):
    found = printable(f"before {text} after")

    assert is_fit(found) and found.startswith("before ") and found.endswith(" after")
    assert found != printable("before  after")


@hostile
def test_lines_stay_lines_but_nothing_else_of_it_does(text):
    found = printable_lines(f"one\n\ttwo {text}")

    assert found[0] == "one" and found[1].startswith("\ttwo ")
    assert all(is_fit(line.replace("\t", "")) for line in found)


# -- every field, on every way out -------------------------------------------------------------------------------------

FIELDS = ("worker", "run", "job", "text", "subject", "error", "traceback")


def said(text, field, *, whole=False, **more):
    """An entry with that text in one of its fields."""
    given = {"worker": "foo.1", "run": "id", "job": "add", "text": ": it", "subject": "" if whole else "id"}
    return LogEntry("failed", **{**given, field: text, **more})


@hostile
@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("many", [False, True])
def test_no_field_of_an_entry_reaches_a_stream_raw(text, field, many):
    stream = io.StringIO()
    log = Log(stream)

    log.say_all([said(text, field), said(text, field, whole=True)] + [said("x", "job")] * 5 * many)
    log.close()

    lines = stream.getvalue().split("\n")
    assert all(is_fit(line) for line in lines)
    assert sum(bool(STAMPED.match(line)) for line in lines) == 2 + 5 * many
    assert not any(line.startswith(FORGED[:10]) for line in lines)


@hostile
@pytest.mark.parametrize("field", FIELDS)
def test_no_field_of_an_entry_reaches_a_json_log_raw_but_all_can_be_read_from_it(text, field):
    stream = io.StringIO()
    log = Log(stream, format="json")

    log.say_all([said(text, field)])
    log.close()

    (line,) = stream.getvalue().splitlines()
    document = json.loads(line)
    assert is_fit(line) and line.isascii() and is_fit(document["message"])
    assert field == "text" or document[field] == text


@hostile
@pytest.mark.parametrize("field", FIELDS)
def test_no_field_of_an_entry_reaches_logging_raw_in_its_message(text, field, caplog):
    with caplog.at_level(logging.INFO, "skunkqueue.worker"):
        log = Log()
        log.say_all([said(text, field)])
        log.close()

    (record,) = caplog.records
    assert all(is_fit(line) for line in record.getMessage().split("\n"))
    assert not any(line.startswith(FORGED[:10]) for line in record.getMessage().split("\n"))
    assert field == "text" or getattr(record, field) == text


# -- logging -----------------------------------------------------------------------------------------------------------


def test_an_entry_arrives_in_logging_with_its_level_its_time_and_its_fields(caplog):
    with caplog.at_level(logging.INFO, "skunkqueue.worker"):
        log = Log()
        began = datetime.now().timestamp()
        log.say_all([LogEntry("finished", "foo.1", "id", "add", 0.25, "5", "id")])
        log.say("the store is away", what="store away", level=WARNING)
        log.close()

    first, second = caplog.records
    assert (first.name, first.levelno, first.getMessage()) == (
        "skunkqueue.worker",
        INFO,
        "foo.1 finished id add in 250.00 ms: 5",
    )
    assert (first.what, first.worker, first.run, first.job, first.took) == ("finished", "foo.1", "id", "add", 0.25)
    assert (second.levelname, second.what, second.getMessage()) == ("WARNING", "store away", "the store is away")
    assert not hasattr(second, "run") and abs(first.created - began) < 5


def test_a_record_factory_of_the_program_that_knows_the_same_names_costs_no_line(caplog):
    old = logging.getLogRecordFactory()

    def factory(*args, **named):
        record = old(*args, **named)
        record.run = record.worker = "theirs"
        return record

    logging.setLogRecordFactory(factory)
    try:
        with caplog.at_level(logging.INFO, "skunkqueue.worker"):
            log = Log()
            log.say_all([LogEntry("took", "foo.1", "id", "add", None, "", "id")])
            log.close()
    finally:
        logging.setLogRecordFactory(old)

    (record,) = caplog.records
    assert (record.run, record.job, record.getMessage()) == ("theirs", "add", "foo.1 took id add")


def test_a_level_that_the_program_switched_off_is_not_handled(caplog):
    logger = logging.getLogger("skunkqueue.worker")
    with caplog.at_level(logging.INFO, "skunkqueue.worker"):
        log = Log()
        logger.setLevel(logging.ERROR)
        log.say_all([LogEntry(text="no"), LogEntry(text="yes", level=ERROR)])
        log.close()

    assert [record.getMessage() for record in caplog.records] == ["yes"]


# -- what a pool says --------------------------------------------------------------------------------------------------


def documents(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def one(found, **fields):
    """The one document that has these fields."""
    (document,) = [each for each in found if fields.items() <= each.items()]
    return document


def test_the_json_log_of_a_pool_tells_of_each_run_by_fields_and_with_a_level(tmp_path):
    queue = SkunkQueue("demo", f"sqlite:///{tmp_path}/runs.db")

    @queue.event(name="add")
    def add(first, second):
        return first + second

    @queue.event(name="fail")
    def fail():
        raise ValueError("no")

    @queue.event(name="again", retries=1, backoff=0.01)
    def again():
        raise ValueError("not yet")

    @queue.event(name="crash")
    def crash():
        import os

        os._exit(3)

    stream = io.StringIO()
    runs = {job.name: job.fire(*args) for job, args in ((add, (2, 3)), (fail, ()), (again, ()), (crash, ()))}
    with queue, WorkerPool(queue, log=stream, log_format="json"):
        for run in runs.values():
            _ended(run)

    found = documents(stream)
    taken = one(found, what="took", run=runs["add"].id)
    assert (taken["level"], taken["job"], taken["worker"]) == ("INFO", "add", "default.1")
    finished = one(found, what="finished", run=runs["add"].id)
    assert finished["level"] == "INFO" and 0 < finished["took"] < 60
    assert finished["message"].startswith(f"default.1 finished {runs['add'].id} add in ")
    failed = one(found, what="failed", run=runs["fail"].id)
    assert (failed["level"], failed["error"]) == ("ERROR", "ValueError: no")
    assert failed["traceback"].startswith("Traceback ") and failed["message"].endswith(": ValueError: no")
    assert one(found, what="retries", run=runs["again"].id)["level"] == "WARNING"
    assert one(found, what="failed", run=runs["again"].id)["level"] == "ERROR"
    died = [each for each in found if each.get("what") == "died"]
    assert {(each["level"], each["worker"]) for each in died} == {("ERROR", "default.1")} and len(died) == 3
    assert one(found, what="failed", run=runs["crash"].id)["level"] == "ERROR"
    assert all(datetime.fromisoformat(each["time"]).utcoffset() is not None for each in found)
    age = datetime.now().astimezone() - datetime.fromisoformat(found[-1]["time"])
    assert timedelta() <= age < timedelta(minutes=5)


def _ended(run):
    try:
        run.wait(60)
    except Exception:
        return


@hostile
def test_what_a_job_raises_or_returns_never_reaches_the_log_of_its_pool_raw(text):
    queue = SkunkQueue("demo", "memory://hostile")

    @queue.event
    def bad():
        raise ValueError(text)

    @queue.event
    def good():
        return text

    stream = io.StringIO()
    bad.fire()
    good.fire()
    with queue:
        WorkerPool(queue, in_process=True, log=stream, verbose=True).run_until_idle()

    lines = stream.getvalue().split("\n")
    assert any(" failed " in line for line in lines)
    assert all(is_fit(line) for line in lines)
    assert not any(line.startswith(FORGED[:10]) for line in lines)


@hostile
def test_the_name_of_a_file_never_reaches_the_log_of_its_folder_or_its_report_raw(text, tmp_path):
    name = text.replace("\x00", "").replace("\ud800", "")
    stream = io.StringIO()
    hermes = Hermes(tmp_path, threads=1, log=stream, verbose=True)
    hermes.register({"ok": lambda data: None, "bad": lambda data: 1 / 0})
    for number, kind in enumerate(("ok", "bad", "nobody", text)):
        path = tmp_path / "in" / f"{number}{name}"
        path.write_text(json.dumps({"type": kind}))
        os.utime(path, (1, 1))

    hermes.run_until_idle()

    reports = "".join(path.read_text() for path in (tmp_path / "err").glob("*.error"))
    assert len(list((tmp_path / "err").glob("*.error"))) == 3
    for line in [*stream.getvalue().split("\n"), *reports.split("\n")]:
        assert is_fit(line) and not line.startswith(FORGED[:10])


def test_a_spool_folder_says_its_files_by_name_in_the_json_log(tmp_path):
    stream = io.StringIO()
    hermes = Hermes(tmp_path, threads=1, log=stream, log_format="json")
    hermes.register({"ok": lambda data: 5, "bad": lambda data: 1 / 0})
    for kind in ("ok", "bad", "nobody"):
        path = tmp_path / "in" / kind
        path.write_text(json.dumps({"type": kind}))
        os.utime(path, (1, 1))

    hermes.run_until_idle()

    found = documents(stream)
    assert one(found, what="finished", subject="in/ok")["job"] == "ok"
    failed = one(found, what="failed", subject="in/bad")
    assert failed["level"] == "ERROR" and failed["error"].startswith("ZeroDivisionError") and len(failed["run"]) == 28
    assert one(found, what="refused")["level"] == "ERROR"


def test_a_format_that_there_is_not_is_refused():
    with pytest.raises(WrongCall, match="text or json"):
        Log(io.StringIO(), format="xml")
