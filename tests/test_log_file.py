"""The log file of skunq work: whoever rotates logs renames it, and may send SIGUSR1."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from pools import LIMIT, until

from skunkqueue import SkunkQueue
from skunkqueue.cli.logfile import LogFile


def test_what_is_written_after_a_rename_goes_to_a_new_file(tmp_path):
    log = LogFile(str(tmp_path / "log"))

    log.write("one\n")
    os.rename(tmp_path / "log", tmp_path / "log.1")
    log.write("two\n")
    os.unlink(tmp_path / "log")
    log.write("three\n")
    log.close()

    assert (tmp_path / "log.1").read_text() == "one\n"
    assert (tmp_path / "log").read_text() == "three\n"


def test_where_it_cannot_be_opened_anew_the_old_file_goes_on(tmp_path):
    (tmp_path / "logs").mkdir()
    log = LogFile(str(tmp_path / "logs" / "log"))

    os.rename(tmp_path / "logs", tmp_path / "moved")
    log.write("still\n")
    log.close()

    assert (tmp_path / "moved" / "log").read_text() == "still\n"


@pytest.mark.parametrize("logfile", [True, False])
def test_sigusr1_opens_the_log_anew_and_stops_no_pool(tmp_path, monkeypatch, logfile):
    monkeypatch.setenv("SKUNKQUEUE_URL", f"sqlite:///{tmp_path}/runs.db")
    where = ["--logfile", "log"] if logfile else []
    command = [sys.executable, "-m", "skunkqueue.cli", "work", "-q", "demo", *where]
    with (tmp_path / "out").open("wb") as out:
        pool = subprocess.Popen(command, cwd=tmp_path, stderr=out)
    try:
        log = tmp_path / ("log" if logfile else "out")
        until(lambda: log.exists() and " started, process " in log.read_text())
        if logfile:
            log.rename(tmp_path / "log.1")
        pool.send_signal(signal.SIGUSR1)

        with SkunkQueue("demo") as queue:
            assert queue.event(name="after")(abs).fire(-1).wait(LIMIT) == 1
        until(lambda: log.exists() and " finished " in log.read_text())
    finally:
        pool.terminate()
        assert pool.wait(LIMIT) == 0
