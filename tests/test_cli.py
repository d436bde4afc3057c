"""The command line, run as people run it: as a program of its own, judged by what it prints and its exit code."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import pytest
from pools import LIMIT, until

from skunkqueue import Run, SkunkQueue
from skunkqueue.cli.act import PAGE
from skunkqueue.cli.commands import COMMANDS
from skunkqueue.cli.jsonable import jsonable
from skunkqueue.cli.plain import read, spread
from skunkqueue.cli.work import work
from skunkqueue.envelope import Envelope, Outcome, Want
from skunkqueue.errors import WrongCall
from skunkqueue.ids import new_id, new_token
from skunkqueue.printable import printable

SKUNQ = [sys.executable, "-m", "skunkqueue.cli"]
ROW = {"id", "queue", "route", "job", "state", "result", "error", "attempts", "due", "progress"}


class Skunq:
    """The program, with a folder to be in and a store by the environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"sqlite:///{folder}/runs.db"
        self.env = {**os.environ, "SKUNKQUEUE_URL": self.url, "COLUMNS": "40", "PYTHONUNBUFFERED": "1"}

    def __call__(self, *args: str, code: int = 0, **env: str) -> str:
        """Run it; gives what it said on stdout. What it said on stderr is ``complaint``."""
        said = subprocess.run(
            [*SKUNQ, *args],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=self.folder,
            env={**self.env, **env},
            timeout=2 * LIMIT,
        )
        self.complaint = said.stderr
        assert said.returncode == code, said.stderr + said.stdout
        assert "Traceback" not in said.stderr or args[0] == "work", said.stderr
        return said.stdout

    def json(self, *args: str, **options: Any) -> Any:
        return json.loads(self(*args, "--json", **options))

    def start(self, *args: str) -> subprocess.Popen[str]:
        """Start it in the background, with its log in ``log``."""
        with (self.folder / "log").open("a") as log:
            return subprocess.Popen(
                [*SKUNQ, *args],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self.env,
                text=True,
            )

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def says(self, text: str) -> None:
        until(lambda: text in self.log, message=f"the log did not say {text!r}")


@pytest.fixture
def skunq(tmp_path: Path) -> Skunq:
    return Skunq(tmp_path)


@pytest.fixture
def queue(skunq: Skunq) -> Iterator[SkunkQueue]:
    with SkunkQueue("demo", skunq.url) as queue:
        yield queue


def job(queue: SkunkQueue, **options: Any) -> Any:
    @queue.event(name="double", **options)
    def double(number: Any) -> Any:
        return number * 2

    return double


def ended(queue: SkunkQueue, run: Run[Any], outcome: Outcome) -> None:
    """Bring a run to its end without a worker."""
    now = queue.clock.now()
    route = queue.store.get([run.id])[run.id].envelope.route
    [claim] = queue.store.claim([Want("demo", (route,), "nobody", new_token(), 1)], now=now, until=now + 60)
    assert claim.id == run.id
    assert queue.store.commit([(claim, outcome)], now=now) == {run.id}


FAILED = Outcome.failed("ValueError: no", value=b"m" + b"\x81\xa9traceback\xadTrace\nof \x1b[1m")


# -- help ------------------------------------------------------------------------------------------------------------


def test_the_help_names_every_command_and_each_has_an_example(skunq: Skunq) -> None:
    every = skunq("--help")
    assert [name for name in COMMANDS if f"\n  {name} " not in every] == []
    for name in COMMANDS:
        assert f"\n  skunq {name}" in skunq(name, "--help")


def test_skunq_is_installed_as_a_program() -> None:
    [found] = entry_points(group="console_scripts", name="skunq")

    assert found.value == "skunkqueue.cli:main"


def test_without_a_command_it_shows_the_help(skunq: Skunq) -> None:
    is_old = tuple(map(int, version("click").split(".")[:2])) < (8, 2)
    said = skunq(code=0 if is_old else 2)

    assert "Usage: skunq" in said + skunq.complaint


# -- wrong calls -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["wrk"], "did you mean work?"),
        (["runs", "--stat"], "No such option"),
        (["runs", "--state", "suceeded"], "there is no state 'suceeded'; did you mean 'succeeded'?"),
        (["runs", "-q", "my queue"], "a queue is 1 to 100 letters"),
        (["runs", "-r", "a/b"], "a route is 1 to 100 letters"),
        (["runs", "--limit", "0"], "0 is not in the range"),
        (["runs", "--url", "localhost:6379"], "a URL is like sqlite:///file.db"),
        (["runs", "--url", "mysql://localhost"], "there is no store for mysql://"),
        (["runs", "--url", "sqlite:///x.db?durability=none"], "durability is full or normal"),
        (["show"], "Missing argument 'ID'"),
        (["cancel"], "cancel wants IDs, or --state, --job,"),
        (["retry"], "retry wants IDs, or --state, --job,"),
        (["retry", "--failed", "123"], "retry wants IDs, or --failed"),
        (["work"], "Missing option '-q'"),
        (["work", "-q", "demo", "-r"], "-r wants one route or more"),
        (["work", "-q", "demo", "-r", "--burst"], "-r wants one route or more"),
        (["work", "-q", "demo", "-r", "a b"], "a route is 1 to 100 letters"),
        (["work", "-q", "demo", "stray/"], "a route is 1 to 100 letters"),
        (["work", "de/mo"], "a queue is 1 to 100 letters"),
        (["work", "-q", "demo", "--grace", "soon"], "'soon' is no time: give seconds, or 5m, 1h30m"),
        (["work", "-q", "demo", "--lease", "50ms"], "'50ms' is too short: at least 0.1 seconds"),
    ],
    ids=lambda each: " ".join(sorted(each)) if isinstance(each, set) else " ".join(each),
)
def test_a_wrong_call_gets_one_sentence(skunq: Skunq, args: list[str], sentence: str) -> None:
    skunq(*args, code=2)

    assert sentence in skunq.complaint
    assert skunq.complaint.count("Error: ") == 1
    assert skunq.complaint.rstrip().splitlines()[-1].startswith("Error: ")


@pytest.mark.parametrize("command", ["show", "cancel", "promote", "retry"])
def test_an_unknown_id_gets_one_sentence(skunq: Skunq, queue: SkunkQueue, command: str) -> None:
    queue.count()

    skunq(command, "0123", code=1)

    assert skunq.complaint == f"Error: there is no run 0123 on {skunq.url}\n"


@pytest.mark.parametrize("command", ["show", "cancel", "promote", "retry"])
@pytest.mark.parametrize("id", ["", "a\nb", "\udcff", "\x1b[2J", "x" * 201], ids=repr)
def test_an_id_that_is_no_text_gets_one_sentence(skunq: Skunq, command: str, id: str) -> None:
    skunq(command, id, code=2)

    assert "the id of a run is a line of text" in skunq.complaint.splitlines()[-1]
    assert skunq.complaint.count("Error: ") == 1
    assert "\x1b" not in skunq.complaint


def test_a_missing_server_gets_one_sentence_without_secrets(skunq: Skunq) -> None:
    pytest.importorskip("redis")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        port = closed.getsockname()[1]

        skunq("runs", "--url", f"redis://me:secret@127.0.0.1:{port}/0", code=1)

    assert skunq.complaint.startswith("Error: ")
    assert len(skunq.complaint.splitlines()) == 1
    assert str(port) in skunq.complaint
    assert "secret" not in skunq.complaint


@pytest.mark.parametrize("url", ["sqlite:///typo.db", ""])
@pytest.mark.parametrize(
    "command", [["runs"], ["show", "0123"], ["workers"], ["purge"], ["retry", "--failed"]], ids=" ".join
)
def test_looking_at_a_file_that_is_not_there_says_so_and_makes_nothing(
    skunq: Skunq, tmp_path: Path, command: list[str], url: str
) -> None:
    skunq(*command, code=1, SKUNKQUEUE_URL=url)

    assert re.fullmatch(r"Error: there is no file \S+\.db: nothing was fired there yet\n", skunq.complaint)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_file_of_another_kind_gets_one_sentence(skunq: Skunq, tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("Dear store," * 1000)

    skunq("runs", "--url", "sqlite:///letter", code=1)

    assert skunq.complaint.startswith("Error: ")
    assert len(skunq.complaint.splitlines()) == 1


# -- looking ---------------------------------------------------------------------------------------------------------


def test_runs_lists_what_was_fired_newest_first(skunq: Skunq, queue: SkunkQueue) -> None:
    double = job(queue, routes="foo")
    first, second = double.fire(1), double.options(priority="high").fire(2)
    ended(queue, second, Outcome.complete(b"m\x04"))
    later = double.fire_at(3600, 3)

    lines = skunq("runs").splitlines()

    assert lines[0].split() == ["ID", "STATE", "JOB", "QUEUE", "ROUTE", "ATTEMPTS", "AGE", "TOOK", "RESULT"]
    assert [line.split()[:6] for line in lines[1:]] == [
        [later.id[-8:], "scheduled", "double", "demo", "foo", "0"],
        [second.id[-8:], "succeeded", "double", "demo", "foo", "(high)"],
        [first.id[-8:], "queued", "double", "demo", "foo", "0"],
    ]
    assert lines[2].split()[-1] == "4"


def test_runs_are_one_json_document_with_all_that_programs_need(skunq: Skunq, queue: SkunkQueue) -> None:
    double = job(queue, routes="foo", retries=2)
    well, badly = double.fire(1), double.fire(2)
    ended(queue, well, Outcome.complete(b"m\x02"))
    ended(queue, badly, FAILED)

    rows = skunq.json("runs", "-q", "demo")

    assert [set(row) >= ROW for row in rows] == [True, True]
    failed, succeeded = rows
    assert (failed["id"], failed["state"], failed["error"], failed["result"]) == (
        badly.id,
        "failed",
        "ValueError: no",
        None,
    )
    assert (succeeded["queue"], succeeded["route"], succeeded["job"]) == ("demo", "foo", "double")
    assert (succeeded["state"], succeeded["result"], succeeded["attempts"]) == ("succeeded", 2, 1)
    assert succeeded["due"].endswith("+00:00")


@pytest.mark.parametrize(
    ("filter", "shown"),
    [
        (["-q", "demo"], {"foo", "bar", "late"}),
        (["-q", "other"], {"elsewhere"}),
        (["-r", "foo"], {"foo"}),
        (["--state", "scheduled"], {"late"}),
        (["--state", "failed"], {"bar"}),
        (["--job", "double", "--limit", "2"], {"elsewhere", "late"}),
        (["--job", "triple"], set()),
    ],
    ids=lambda each: " ".join(sorted(each)) if isinstance(each, set) else " ".join(each),
)
def test_runs_can_be_filtered(skunq: Skunq, queue: SkunkQueue, filter: list[str], shown: set[str]) -> None:
    double = job(queue)
    runs = {"foo": double.options(routes="foo", priority="low").fire(1), "bar": double.options(routes="bar").fire(1)}
    ended(queue, runs["bar"], FAILED)
    runs["late"] = double.fire_at(3600, 1)
    runs["elsewhere"] = job(SkunkQueue("other", skunq.url)).fire(1)

    found = {row["id"] for row in skunq.json("runs", *filter)}

    assert found == {runs[name].id for name in shown}


def test_more_runs_than_a_page_are_one_document(skunq: Skunq, queue: SkunkQueue) -> None:
    job(queue).fire_many([(number,) for number in range(1234)])

    rows = skunq.json("runs", "--limit", "1201")

    assert len({row["id"] for row in rows}) == 1201


def test_nothing_is_an_empty_document_and_a_sentence_for_people(skunq: Skunq, queue: SkunkQueue) -> None:
    job(queue).fire(1)

    assert skunq.json("runs", "-q", "demoo") == []
    assert skunq("runs", "-q", "demoo") == ""
    assert skunq.complaint == f"no runs on queue demoo of {skunq.url}; there are runs of demo\n"


def test_show_tells_all_about_a_run(skunq: Skunq, queue: SkunkQueue) -> None:
    run = job(queue, routes="foo", retries=2).options(unique="user-7").fire(1)
    ended(queue, run, FAILED)

    said = skunq("show", run.id)
    row = skunq.json("show", run.id)

    facts = dict(line.split(maxsplit=1) for line in said.splitlines())
    assert (facts["state"], facts["error"], facts["route"]) == ("failed", "ValueError: no", "foo")
    assert (facts["attempts"], facts["unique"]) == ("0 (retries: 2)", "user-7")
    assert (facts["traceback"], facts["of"]) == ("Trace", "\\x1b[1m"), "what a terminal would obey is written out"
    assert set(row) >= ROW
    assert row["traceback"] == "Trace\nof \x1b[1m"


def test_results_are_never_unpickled_at_the_desk(skunq: Skunq, queue: SkunkQueue) -> None:
    run = job(queue).fire(1)
    ended(queue, run, Outcome.complete(b"pcos\nsystem\n(S'touch pwned'\ntR."))

    assert skunq.json("show", run.id)["result"] == "<pickled, 31 bytes>"
    assert "<pickled, 31 bytes>" in skunq("runs")
    assert not (skunq.folder / "pwned").exists()


def test_what_cannot_be_read_is_shown_all_the_same(skunq: Skunq, queue: SkunkQueue) -> None:
    now = queue.clock.now()
    ids = queue.store.put(
        [Envelope(new_id(now), "demo", "default", now, body) for body in (b"", b"\xff" * 50, b"junk")]
    )
    run = job(queue, routes="foo").fire(1)
    ended(queue, run, Outcome.complete(b"m\xc1"))

    assert {row["job"] for row in skunq.json("runs") if row["id"] in ids} == {None}
    assert "its envelope cannot be read" in skunq("show", ids[0])
    assert skunq.json("show", run.id)["result"] == "<cannot be read, 2 bytes>"


def test_what_is_piped_is_neither_cut_nor_wrapped(skunq: Skunq, queue: SkunkQueue) -> None:
    name = "a" * 90
    run = queue.event(name=name)(print).fire(1)

    [line] = skunq("runs").splitlines()[1:]

    assert line.startswith(run.id[-8:])
    assert name in line


def test_a_reader_who_goes_away_is_no_error(skunq: Skunq, queue: SkunkQueue) -> None:
    job(queue).fire_many([(number,) for number in range(2000)])
    for options in (["--json"], []):
        shell = f"{' '.join(SKUNQ)} runs --limit 2000 {' '.join(options)} | head -1"

        said = subprocess.run(["/bin/sh", "-c", shell], capture_output=True, text=True, env=skunq.env, timeout=LIMIT)

        assert said.stdout.count("\n") == 1
        assert said.stderr == ""


def test_ctrl_c_is_no_error_either(skunq: Skunq) -> None:
    code = (
        "import skunkqueue.persistence.url as p, skunkqueue.cli as c\n"
        "def away(*_): raise KeyboardInterrupt\n"
        "p.get_backend = away\n"
        "c.main(['runs'])"
    )

    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=skunq.env, timeout=LIMIT)

    assert said.returncode == 130
    assert said.stdout + said.stderr.strip() == ""


# -- doing -----------------------------------------------------------------------------------------------------------


def test_cancel_ends_what_waits_and_says_so(skunq: Skunq, queue: SkunkQueue) -> None:
    double = job(queue)
    one, two = double.fire(1), double.fire(2)

    said = skunq("cancel", one.id, two.id)

    assert said.splitlines() == [f"{one.id} cancelled", f"{two.id} cancelled"]
    assert {one.state, two.state} == {"cancelled"}


def test_cancel_complains_of_what_had_ended(skunq: Skunq, queue: SkunkQueue) -> None:
    double = job(queue)
    done = double.fire(1)
    ended(queue, done, Outcome.complete(b"m\x02"))
    waiting = double.fire(2)

    rows = skunq.json("cancel", waiting.id, done.id, code=1)

    assert [(row["id"], row["done"]) for row in rows] == [(waiting.id, True), (done.id, False)]
    assert skunq.complaint == f"Error: run {done.id} had ended before: it succeeded\n"


def test_the_desk_leaves_other_queues_alone(skunq: Skunq, queue: SkunkQueue) -> None:
    run = job(queue).fire(1)

    skunq("cancel", "-q", "other", run.id, code=1)

    assert skunq.complaint == f"Error: there is no run {run.id} on queue other of {skunq.url}\n"
    assert run.state == "queued"


def test_promote_makes_ripe_what_is_queued_for_later(skunq: Skunq, queue: SkunkQueue) -> None:
    run = job(queue).fire_at(3600, 1)
    assert run.state == "scheduled"

    assert skunq("promote", run.id) == f"{run.id} promoted\n"
    assert run.state == "queued"

    skunq("promote", run.id, code=1)
    assert skunq.complaint == f"Error: run {run.id} is queued; only what is queued for later can be promoted\n"


def test_retry_queues_again_what_failed(skunq: Skunq, queue: SkunkQueue) -> None:
    double = job(queue)
    run = double.fire(1)
    ended(queue, run, FAILED)

    assert skunq("retry", run.id) == f"{run.id} queued again\n"
    assert (run.state, run.attempts) == ("queued", 0)

    skunq("retry", run.id, code=1)
    assert skunq.complaint == f"Error: run {run.id} is queued; only failed and cancelled runs can be queued again\n"


def test_retry_failed_takes_all_of_the_queue_and_no_other(skunq: Skunq, queue: SkunkQueue) -> None:
    number = PAGE + 20
    job(queue).fire_many([(n,) for n in range(number)])
    other = job(SkunkQueue("other", skunq.url)).fire(1)
    now = queue.clock.now()
    for name in ("demo", "other"):
        want = Want(name, ("default",), "nobody", new_token(), number)
        claims = queue.store.claim([want], now=now, until=now + 60)
        queue.store.commit([(claim, FAILED) for claim in claims], now=now)

    said = skunq("retry", "-q", "demo", "--failed")

    assert said == f"{number} failed runs of queue demo of {skunq.url} queued again\n"
    assert queue.count()["queued"] == number
    assert other.state == "failed"


def test_purge_clears_away_what_nobody_needs(skunq: Skunq, queue: SkunkQueue) -> None:
    double = job(queue, expires=0)
    double.fire(1)
    double.options(expires=None).fire(2)

    said = skunq("purge")
    counts = skunq.json("purge", "-q", "demo")

    assert said == f"1 run, order or worker cleared away; {skunq.url}: 1 queued or scheduled, 1 cancelled\n"
    assert counts == {"purged": 0, "left": {"queued": 1, "cancelled": 1}}


# -- working ---------------------------------------------------------------------------------------------------------


def test_a_burst_works_off_what_waits_and_leaves_the_rest(skunq: Skunq, queue: SkunkQueue) -> None:
    double = job(queue)
    runs = [double.options(routes=route).fire(number) for number, route in enumerate(("foo", "bar", "baz"))]
    late = double.options(routes="foo").fire_at(3600, 9)

    skunq("work", "-q", "demo", "-r", "foo", "bar", "--burst", "--logfile", "pool.log")

    log = (skunq.folder / "pool.log").read_text()
    assert "serves foo, bar\n" in log
    assert [run.result for run in runs] == [0, 2, None]
    assert late.state == "scheduled"
    assert f"finished {runs[1].id} double" in log
    assert skunq.complaint == "", "the log goes to its file only"


def test_without_routes_it_serves_the_default_one(skunq: Skunq, queue: SkunkQueue) -> None:
    run = job(queue).fire(21)

    skunq("work", "-q", "demo", "--burst")

    assert run.result == 42
    assert "serves default\n" in skunq.complaint


def test_a_log_file_is_appended_to(skunq: Skunq) -> None:
    (skunq.folder / "pool.log").write_text("what was before\n")

    skunq("work", "-q", "demo", "--burst", "--logfile", "pool.log")

    assert (skunq.folder / "pool.log").read_text().startswith("what was before\n2")


def test_a_log_file_that_cannot_be_written_gets_one_sentence(skunq: Skunq) -> None:
    skunq("work", "-q", "demo", "--burst", "--logfile", "no/folder/log", code=1)

    assert skunq.complaint == "Error: the log file no/folder/log cannot be written (No such file or directory)\n"


def test_what_is_in_the_current_folder_can_be_imported(skunq: Skunq, queue: SkunkQueue) -> None:
    (skunq.folder / "shop.py").write_text(
        "from skunkqueue import SkunkQueue\n"
        "@SkunkQueue('demo').event(name='sell')\n"
        "def sell(what): return 'sold ' + what\n"
    )
    (skunq.folder / "buy.py").write_text("import shop; print(shop.sell.fire('tea').id)")
    id = subprocess.run(
        [sys.executable, "buy.py"], stdout=subprocess.PIPE, text=True, check=True, cwd=skunq.folder, env=skunq.env
    ).stdout.strip()

    skunq("work", "-q", "demo", "--import", "shop", "--burst")

    assert skunq.json("show", id)["result"] == "sold tea"


def test_a_failing_import_gets_one_sentence(skunq: Skunq) -> None:
    said = skunq("work", "-q", "demo", "--import", "no_such_module", "--logfile", "log", code=1)

    assert said == ""
    assert skunq.complaint == (
        "Error: cannot import no_such_module: ModuleNotFoundError: No module named 'no_such_module'\n"
    )


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT"])
def test_a_stop_by_signal_is_a_good_end(skunq: Skunq, name: str) -> None:
    pool = skunq.start("work", "-q", "demo")
    skunq.says("started, process")

    pool.send_signal(getattr(signal, name))

    assert pool.wait(LIMIT) == 0
    assert "stopped" in skunq.log


def test_a_pid_file_holds_the_pool_for_as_long_as_it_works(skunq: Skunq) -> None:
    path = skunq.folder / "pool.pid"
    pool = skunq.start("work", "-q", "demo", "--pidfile", "pool.pid")
    until(lambda: path.exists() and path.read_text())

    assert path.read_text() == f"{pool.pid}\n"
    skunq("work", "-q", "demo", "--pidfile", "pool.pid", "--burst", code=1)
    assert (
        skunq.complaint == f"Error: process {pool.pid} has the pid file pool.pid: stop it first, or name another file\n"
    )

    pool.terminate()  # however early this comes
    assert pool.wait(LIMIT) == 0
    assert list(skunq.folder.glob("pool.pid*")) == []


def test_a_pid_file_that_was_left_behind_is_taken_over_whoever_has_its_number_by_now(skunq: Skunq) -> None:
    path = skunq.folder / "pool.pid"

    for left in (f"{os.getpid()}\n", "1\n", f"{2**40}\n", ""):
        path.write_text(left)
        skunq("work", "-q", "demo", "--pidfile", "pool.pid", "--burst")
        assert not path.exists()


def test_a_pid_file_is_free_as_soon_as_its_pool_is_killed_whatever_its_jobs_have_started(
    skunq: Skunq, queue: SkunkQueue
) -> None:
    @queue.event(routes="foo")
    def leave(mark: str) -> None:
        import subprocess

        subprocess.Popen(["sleep", "60"], start_new_session=True)
        open(mark, "w").close()
        time.sleep(600)

    leave.fire(str(skunq.folder / "left"))
    pool = skunq.start("work", "-q", "demo", "-r", "foo", "--pidfile", "pool.pid")
    until((skunq.folder / "left").exists)
    pool.kill()
    pool.wait(LIMIT)

    skunq("work", "-q", "demo", "-r", "bar", "--pidfile", "pool.pid", "--burst")

    assert list(skunq.folder.glob("pool.pid*")) == []


def test_of_many_who_want_a_pid_file_at_once_one_has_it_at_a_time(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from skunkqueue.cli.pidfile import holding\n"
        "from skunkqueue.errors import SkunkError\n"
        "sys.stdin.read()\n"
        "for _ in range(300):\n"
        "    try:\n"
        "        with holding('pid'):\n"
        "            os.close(os.open('held', os.O_CREAT | os.O_EXCL))\n"
        "            assert open('pid').read() == f'{os.getpid()}\\n'\n"
        "            os.unlink('held')\n"
        "    except SkunkError:\n"
        "        pass\n"
    )
    begin, held = os.pipe()
    rivals = [subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdin=begin) for _ in range(4)]
    os.close(begin)

    os.close(held)

    assert [rival.wait(LIMIT) for rival in rivals] == [0] * 4
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_pid_file_is_left_alone(skunq: Skunq) -> None:
    path = skunq.folder / "pool.pid"
    path.write_text("Dear diary\n")
    skunq("work", "-q", "demo", "--pidfile", "pool.pid", "--burst", code=1)
    assert "pool.pid is not a pid file" in skunq.complaint
    assert path.read_text() == "Dear diary\n"


def test_workers_can_be_seen_and_what_they_run_cancelled(skunq: Skunq, queue: SkunkQueue) -> None:
    @queue.event(routes="foo")
    def hang() -> None:
        time.sleep(600)

    run = hang.fire()
    pool = skunq.start("work", "-q", "demo", "-r", "foo", "bar")
    try:
        until(lambda: run.state == "running")

        alive = skunq.json("workers", "-q", "demo")
        assert sorted(worker["routes"] for worker in alive) == [["bar"], ["foo"]]
        assert {worker["pool_pid"] for worker in alive} == {pool.pid}
        assert skunq("workers").splitlines()[0].split()[:3] == ["WORKER", "QUEUE", "ROUTES"]
        assert skunq.json("workers", "-q", "other", code=1) == []
        [row] = skunq.json("runs", "--state", "running")
        assert (row["id"], row["attempts"]) == (run.id, 1)

        skunq("cancel", run.id)
        until(lambda: "cancelled" in skunq.log or "its lease was taken away" in skunq.log)
        assert run.state == "cancelled"
    finally:
        pool.terminate()
        pool.wait(LIMIT)


def test_no_workers_is_a_sentence_and_a_failure(skunq: Skunq, queue: SkunkQueue) -> None:
    queue.count()

    assert skunq.json("workers", code=1) == []
    assert skunq("workers", code=1) == ""
    assert skunq.complaint == f"no workers on {skunq.url}; to start one: skunq work -q QUEUE\n"


# -- small things ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("-r foo bar baz", "-r foo -r bar -r baz"),
        ("-r foo -r bar", "-r foo -r bar"),
        ("-r foo bar --burst -q demo", "-r foo -r bar --burst -q demo"),
        ("--route foo bar", "-r foo -r bar"),
        ("--route=foo bar", "--route=foo -r bar"),
        ("-rfoo bar", "-rfoo -r bar"),
        ("-q demo --grace 5", "-q demo --grace 5"),
        ("-q demo -r foo foo --import a --import b", "-q demo -r foo -r foo --import a --import b"),
    ],
)
def test_routes_may_be_listed_after_one_flag(given: str, meant: str) -> None:
    assert list(spread(given.split())) == meant.split()


@pytest.mark.parametrize(
    "call",
    [
        "-q demo",
        "-q demo -r foo bar baz --burst",
        "--queue demo --route foo -r bar --import a --import b",
        "-r foo foo -q demo --url sqlite:///x.db --concurrency 4 --grace 2.5 --max-runs 10",
        "-q demo --logfile log --pidfile pid --verbose",
        "-q demo --log-format json",
        "-q demo --grace 5m --lease 1h30m",
        "demo",
        "demo foo bar --burst",
        "--burst demo -r foo bar",
        "-q demo foo bar",
        "-q demo foo -r bar",
    ],
)
def test_a_plain_call_is_read_as_click_would(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKUNKQUEUE_URL", "sqlite:///env.db")

    assert read(["work", *call.split()]) == work.make_context("work", call.split()).params


@pytest.mark.parametrize(
    "call",
    [
        "",
        "runs -q demo",
        "work",
        "work -h",
        "work -q",
        "work -q demo --help",
        "work -q demo -r",
        "work demo str/ay",
        "work -q de/mo",
        "work -q demo --grace -1",
        "work -q demo --max-runs 0",
        "work -q demo --url x",
        "work -q demo --log-format xml",
    ],
)
def test_any_other_call_is_left_to_click(call: str) -> None:
    assert read(call.split()) is None


def test_a_flag_without_a_route_is_refused() -> None:
    with pytest.raises(WrongCall):
        list(spread(["-r"]))


@pytest.mark.parametrize(
    ("value", "document"),
    [
        ((1, [2.5, {3}]), [1, [2.5, [3]]]),
        ({1: "a", "b": b"c\xff", (2,): None}, {"1": "a", "b": "c\\xff", "(2,)": None}),
        ([float("nan"), float("inf")], ["nan", "inf"]),
        (True, True),
    ],
)
def test_any_plain_value_has_a_place_in_a_json_document(value: Any, document: Any) -> None:
    assert json.loads(json.dumps(jsonable(value), allow_nan=False)) == document


def test_an_int_too_long_for_python_to_write_is_still_shown() -> None:
    assert json.loads(json.dumps(jsonable(1 << 100_000))).startswith("0x1000")


def test_what_a_terminal_would_obey_is_written_out() -> None:
    assert printable("a\x1b[31m\udc80é") == "a\\x1b[31m\\udc80é"


@pytest.mark.parametrize("module", ["skunkqueue", "skunkqueue.cli"])
def test_the_program_is_run_as_a_module_too(module: str) -> None:
    said = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, timeout=LIMIT)

    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.startswith("skunkqueue ")
