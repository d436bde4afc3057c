"""The pool's log: prompt, whole and in order where somebody reads it; where nobody does, it alone stands still."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import importlib
import io
import logging
import os
import pty
import random
import re
import signal
import subprocess
import sys
import termios
import threading
import time

import pytest
from pools import LIMIT, PoolProcess, marks, until

from skunkqueue.worker.pool import log as log_module
from skunkqueue.worker.pool.log import Log
from skunkqueue.worker.pool.log_entry import LogEntry
from skunkqueue.worker.pool.log_output import to_stream

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \S.*")
FILLING = "filling"


class Stuck:
    """Something a log goes to, until it takes no more; what it took is read with ``take``."""

    def __init__(self, kind):
        self.taken = b""
        self._read, self.write = pty.openpty() if kind == "terminal" else os.pipe()
        if kind == "terminal":
            termios.tcflow(self.write, termios.TCOOFF)  # as Ctrl-S does
        else:
            fcntl.fcntl(self.write, fcntl.F_SETPIPE_SZ, 8192)
            self._fill()
            os.set_blocking(self.write, kind != "pipe that does not block")
        self._kind = kind
        self._reader = threading.Thread(target=self._take, daemon=True)

    def _fill(self):
        os.set_blocking(self.write, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(self.write, f"{FILLING}\n".encode())

    def take(self):
        """From now on somebody reads."""
        if self._kind == "terminal":
            termios.tcflow(self.write, termios.TCOON)
        self._reader.start()
        return self

    def _take(self):
        with contextlib.suppress(OSError):  # how a terminal says that nobody writes any more
            while said := os.read(self._read, 65536):
                self.taken += said

    def text(self):
        return self.taken.decode().replace("\r\n", "\n")

    def said(self, text):
        until(lambda: text in self.text(), message=f"the log did not say {text!r}: {self.text()[-3000:]}\n")

    def ended(self):
        """All that was taken, when nobody writes any more."""
        os.close(self.write)
        self._reader.join(LIMIT)
        assert not self._reader.is_alive()
        os.close(self._read)
        return self.text()


KINDS = ("pipe", "pipe that does not block", "terminal")


def assert_whole(text):
    assert text[-1:] in ("", "\n")
    assert [line for line in text.splitlines() if line != FILLING and not LINE.fullmatch(line)] == []


def say_all(journal, lines):
    """Say many sentences that happened together."""
    journal.say_all([LogEntry(text=line) for line in lines])


def stuck_pool(tmp_path, stuck, prelude="", **options):
    """A pool whose stderr goes to what is stuck."""
    return PoolProcess(tmp_path, os.environ["SKUNKQUEUE_URL"], "foo", log=stuck.write, prelude=prelude, **options)


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    """The badly behaved jobs, on this test's store."""
    monkeypatch.setenv("SKUNKQUEUE_URL", f"sqlite:///{tmp_path}/runs.db")
    monkeypatch.setenv("MARKS", str(tmp_path))
    module = importlib.reload(importlib.import_module("robust_jobs"))
    yield module
    module.queue.close()


# -- pools whose log is stuck ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_pool_whose_log_is_stuck_works_on_keeps_its_leases_and_stops(jobs, tmp_path, kind):
    stuck = Stuck(kind)
    with stuck_pool(tmp_path, stuck, lease=2) as pool:
        assert [jobs.add.fire(i, 1).wait(LIMIT) for i in range(20)] == [*range(1, 21)]
        long = jobs.marked.fire("long", 5, "done")
        until(lambda: marks(tmp_path, "long"))
        with PoolProcess(tmp_path, os.environ["SKUNKQUEUE_URL"], "foo", lease=2) as other:
            other.up()
            assert long.wait(LIMIT) == "done"
            assert other.stop() == 0
        assert " took " not in other.log()
        assert marks(tmp_path, "long") == 1

        pool.send(signal.SIGTERM)
        assert pool.ends() == 0

    assert_whole(stuck.take().ended())


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_stuck_log_had_no_room_for_is_counted_when_it_flows_again(jobs, tmp_path, kind):
    stuck = Stuck(kind)
    few = "from skunkqueue.worker.pool import log; log.MOST_LINES = 30\n"
    with stuck_pool(tmp_path, stuck, prelude=few) as pool:
        runs = jobs.add.fire_many([(i, 1) for i in range(200)])
        assert [run.wait(LIMIT) for run in runs] == [*range(1, 201)]
        jobs.add.fire(0, 0).wait(LIMIT)  # so that what is to be said of the others has been said

        stuck.take().said("dropped here")
        last = jobs.add.fire(1, 1)
        stuck.said(f"finished {last.id}")
        assert pool.stop() == 0

    text = stuck.ended()
    assert_whole(text)
    dropped = [int(count) for count in re.findall(r" (\d+) lines were dropped here: ", text)]
    said = sum(line.split()[3] in ("took", "finished") for line in text.splitlines() if line != FILLING)
    assert len(dropped) == 1
    assert dropped[0] + said == 2 * 202
    assert text.splitlines()[-1].endswith(" stopped")


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_the_last_line_is_there_when_a_pool_has_ended(jobs, tmp_path, number):
    with PoolProcess(tmp_path, os.environ["SKUNKQUEUE_URL"], "foo") as pool:
        pool.up()
        run = jobs.add.fire(1, 1)
        assert run.wait(LIMIT) == 2
        assert pool.stop(getattr(signal, number)) == 0

        assert f"finished {run.id}" in pool.log()
        assert pool.log().splitlines()[-1].endswith(" stopped")


# -- how a program ends ------------------------------------------------------------------------------------------------


def run_script(tmp_path, code):
    """Exit code and stderr of a program that has a journal."""
    begin = "import os, sys, threading\nfrom skunkqueue.worker.pool.log import Log\njournal = Log()\n"
    done = subprocess.run(
        # From 3.12 on Python warns of every fork beside threads, which is what one test is about.
        [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", begin + code],
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        timeout=LIMIT * 2,
        check=False,
    )
    return done.returncode, done.stderr.decode()


@pytest.mark.parametrize(
    ("end", "code"), [("pass", 0), ("raise ValueError", 1), ("sys.exit(3)", 3), ("raise KeyboardInterrupt", -2)]
)
def test_the_last_lines_are_written_however_a_program_ends(tmp_path, end, code):
    found, said = run_script(
        tmp_path, f"for n in range(5000):\n    journal.say(f'line {{n}}')\n    journal.flush()\n{end}\n"
    )

    assert found == code
    assert [line.split()[-1] for line in said.splitlines() if " line " in line and LINE.match(line)] == [
        str(n) for n in range(5000)
    ]


def test_a_child_of_the_program_repeats_nothing_and_has_a_thread_of_its_own(tmp_path):
    _, said = run_script(
        tmp_path,
        "journal.say('first'); journal.flush()\n"
        "journal.say('second')\n"
        "if not os.fork():\n"
        "    journal.say('child'); journal.flush(); journal.close(); os._exit(0)\n"
        "os.wait()\n"
        "journal.say('third'); journal.close()\n",
    )

    assert sorted(line.split()[-1] for line in said.splitlines()) == ["child", "first", "second", "third"]


def test_a_program_ends_though_its_pool_has_always_something_to_say(tmp_path):
    began = time.monotonic()
    code, said = run_script(
        tmp_path,
        "def talk():\n"
        "    while True:\n"
        "        journal.say('talk')\n"
        "        journal.flush()\n"
        "threading.Thread(target=talk, daemon=True).start()\n"
        "journal.say('last')\n",
    )

    assert code == 0
    assert " last\n" in said
    assert time.monotonic() - began < 0.8 * LIMIT


def test_a_log_that_nobody_flushes_has_no_thread(tmp_path):
    _, said = run_script(tmp_path, "journal.say('one')\nassert threading.active_count() == 1\n")

    assert said.endswith(" one\n")


# -- what it is written to ---------------------------------------------------------------------------------------------


@pytest.fixture
def pipe():
    """A stream into a pipe, and the end to read it from."""
    end, start = os.pipe()
    with open(start, "w", encoding="utf-8") as stream:
        yield stream, end
    os.close(end)


def read_lines(end, count):
    """That many lines of a pipe."""
    found = b""
    while found.count(b"\n") < count:
        more = os.read(end, 4096)
        assert more
        found += more
    return found.decode().splitlines()


@pytest.mark.parametrize("blocking", [True, False])
def test_several_on_one_stream_split_no_line_and_keep_their_order(pipe, blocking):
    stream, end = pipe
    os.set_blocking(stream.fileno(), blocking)
    journals = [Log(stream) for _ in range(4)]

    def talk(journal, name):
        for n in range(0, 2000, 4):
            say_all(journal, [f"{name} {m} {'x' * (m % 300)}" for m in range(n, n + 4)])
            journal.flush()
        journal.close()

    talkers = [threading.Thread(target=talk, args=pair) for pair in zip(journals, "abcd", strict=True)]
    for each in talkers:
        each.start()
    lines = read_lines(end, 8000)
    for each in talkers:
        each.join(LIMIT)

    assert all(LINE.fullmatch(line.rstrip()) for line in lines)
    for name in "abcd":
        assert [int(line.split()[3]) for line in lines if line.split()[2] == name] == [*range(2000)]


def test_a_line_longer_than_a_pipe_arrives_whole_also_where_the_pipe_does_not_block(pipe):
    stream, end = pipe
    os.set_blocking(stream.fileno(), False)
    journal = Log(stream)

    say_all(journal, ["before", "x" * 300_000, "after"])
    journal.flush()
    lines = read_lines(end, 3)
    journal.close()

    assert [line[24:] for line in lines] == ["before", "x" * 300_000, "after"]


def test_what_others_have_left_in_the_stream_comes_first(pipe):
    stream, end = pipe
    journal = Log(stream)

    stream.write("said before\n")
    journal.say("ours")
    journal.close()

    first, second = read_lines(end, 2)
    assert first == "said before"
    assert second.endswith(" ours")


def test_a_line_is_written_at_once_where_nothing_was_for_a_while(pipe):
    stream, end = pipe
    journal = Log(stream)
    took = []

    for _ in range(10):
        began = time.monotonic()
        journal.say("now")
        journal.flush()
        read_lines(end, 1)
        took.append(time.monotonic() - began)
        until(lambda: not journal._awake)
    journal.close()

    assert min(took) < 0.05  # the best of ten: what a loaded machine adds is not ours


def test_an_end_leaves_no_thread_and_what_is_said_later_starts_it_again():
    log = io.StringIO()
    journal = Log(log)

    for line in ("one", "two"):
        journal.say(line)
        journal.flush()
        journal.close()
        until(lambda: "skunkqueue-log" not in {thread.name for thread in threading.enumerate()})

    assert [line.split()[-1] for line in log.getvalue().splitlines()] == ["one", "two"]


def test_a_stream_that_hangs_is_given_up_at_the_end_and_gets_it_all_when_it_flows():
    class Hanging(io.StringIO):
        def write(self, text):
            flows.wait()
            return super().write(text)

    flows = threading.Event()
    log = Hanging()
    journal = Log(log)
    journal.say("one")
    journal.flush()

    journal.close()
    assert journal.given_up
    journal.say("two")
    journal.flush()
    flows.set()

    until(lambda: log.getvalue().count("\n") == 2)
    until(lambda: not journal.given_up)


def test_a_log_too_large_is_dropped_by_size_too(monkeypatch):
    monkeypatch.setattr(log_module, "MOST_SIZE", 1000)
    log = io.StringIO()
    journal = Log(log)

    for n in range(30):
        journal.say(f"{n} {'x' * 100}")
    journal.flush()
    journal.close()

    lines = log.getvalue().splitlines()
    assert [int(line.split()[2]) for line in lines[:-1]] == [*range(8)]
    assert lines[-1].endswith(" 22 lines were dropped here: the log could not be written for too long")


@pytest.mark.parametrize("stream", [None, 5, "closed"])
def test_something_that_is_no_stream_stops_nothing(stream, monkeypatch):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed if stream == "closed" else stream)
    monkeypatch.setattr(log_module, "_logger", lambda: None)
    journal = Log()

    for line in ("one", "two"):
        journal.say(line)
        journal.flush()
        journal.close()

    assert not journal.given_up


def test_an_odd_name_costs_no_other_line(tmp_path, pipe):
    with open(tmp_path / "log", "w", encoding="ascii") as file:
        for stream in (file, pipe[0]):
            journal = Log(stream)
            say_all(journal, ["one", "caf\u00e9 \udc80", "two"])
            journal.close()

    assert (tmp_path / "log").read_text().splitlines()[1].endswith("caf\\xe9 \\udc80")
    assert [line[24:] for line in read_lines(pipe[1], 3)] == ["one", "caf\u00e9 \\udc80", "two"]


def test_a_stream_that_compresses_is_written_through(tmp_path):
    with gzip.open(tmp_path / "log.gz", "wt") as stream:
        journal = Log(stream)
        journal.say("one")
        journal.close()

    with gzip.open(tmp_path / "log.gz", "rt") as stream:
        assert stream.read().endswith(" one\n")


def test_nothing_is_written_to_what_takes_the_number_of_a_closed_stream(tmp_path):
    stuck = Stuck("pipe")
    with open(os.dup(stuck.write), "w") as stream:
        number = stream.fileno()
        journal = Log(stream)
        say_all(journal, ["x" * 2000] * 20)
        journal.close()
        assert journal.given_up

    other = os.open(tmp_path / "other", os.O_CREAT | os.O_WRONLY)
    assert other == number
    stuck.take()
    until(lambda: not journal.given_up)
    journal.say("more")
    journal.close()
    os.close(other)

    assert (tmp_path / "other").read_bytes() == b""
    assert_whole(stuck.ended())


def test_streams_are_shared_while_somebody_writes_to_them():
    stream = io.StringIO()
    outlet = to_stream(stream)

    assert to_stream(stream) is outlet
    assert to_stream(io.StringIO()) is not outlet


# -- loggers -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def logger():
    found = logging.getLogger("skunkqueue.worker")
    level = found.level
    found.setLevel(logging.INFO)
    yield found
    found.setLevel(level)
    for handler in [*found.handlers]:
        found.removeHandler(handler)


class Handler(logging.Handler):
    """Keeps what it was given; ``first`` is done before."""

    def __init__(self, first=lambda line: None):
        super().__init__()
        self.first = first
        self.lines = []

    def handle(self, record):
        self.first(record.getMessage())
        self.lines.append(record.getMessage())


def test_a_handler_that_raises_costs_the_line_it_raised_at(logger):
    def raise_at_two(line):
        if line == "two":
            raise OSError("no more")

    handler = Handler(raise_at_two)
    logger.addHandler(handler)
    journal = Log()

    say_all(journal, ["one", "two", "three"])
    journal.close()

    assert handler.lines == ["one", "three"]


def test_a_handler_that_hangs_holds_up_nobody(logger):
    flows = threading.Event()
    handler = Handler(lambda line: flows.wait())
    logger.addHandler(handler)
    journal = Log()

    say_all(journal, ["one", "two"])
    journal.flush()
    journal.close()
    assert journal.given_up
    flows.set()

    until(lambda: handler.lines == ["one", "two"])


def test_logging_that_is_far_behind_is_given_time_while_it_gets_on(logger, monkeypatch):
    def flush():
        began = time.monotonic()
        journal.flush()
        return time.monotonic() - began

    monkeypatch.setattr(log_module, "MOST_LINES", 10)
    gate = threading.Semaphore(0)
    handler = Handler(lambda line: gate.acquire())
    logger.addHandler(handler)
    journal = Log()
    say_all(journal, ["under way"] * 8)
    journal.flush()
    until(lambda: not journal._said)
    say_all(journal, ["gathered"] * 8)

    assert min(flush() for _ in range(20)) < log_module.YIELD  # it hangs
    gate.release()
    until(lambda: handler.lines and journal._moved)
    assert flush() >= log_module.YIELD

    gate.release(100)
    journal.close()
    assert len(handler.lines) == 16


SAYS = """
import signal, sys, time
from skunkqueue.worker.pool.log import Log
signal.signal(signal.SIGCONT, lambda *_: None)  # as pools have it
log = Log(sys.stderr)
for n in range(10**6):
    log.say(f"line {n}")
    log.flush()
    time.sleep(0.004)
"""


def test_a_log_goes_on_after_its_process_was_suspended(tmp_path):
    """At any moment: also in a short rest, which is over when the process is continued."""
    file = tmp_path / "log"
    with file.open("wb") as output, subprocess.Popen([sys.executable, "-c", SAYS], stderr=output) as process:
        try:
            for n in range(60):
                before = file.stat().st_size
                until(lambda before=before: file.stat().st_size > before, 10, f"it is silent after {n} times")
                time.sleep(random.random() * 0.02)
                process.send_signal(signal.SIGSTOP)
                time.sleep(0.03)
                process.send_signal(signal.SIGCONT)
        finally:
            process.kill()
