"""A pool that inherits the processes its jobs leave behind reaps them, and no other child of its process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pools import LIMIT, PoolProcess, until

from skunkqueue import SkunkQueue

SUBREAPER = """
import ctypes, subprocess
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: as PID 1 is
import skunkqueue.worker.pool.orphans
skunkqueue.worker.pool.orphans.EVERY = 0.1
own = [subprocess.Popen(["sh", "-c", "exit 3"], process_group=group) for group in (None, 0)]
import atexit
atexit.register(lambda: print("own children ended with", [child.wait() for child in own], flush=True))
"""


def leave_a_process():
    """Start a process whose parent ends before it does."""
    code = "import subprocess; print(subprocess.Popen(['sleep', '0.2'], stdout=subprocess.DEVNULL).pid)"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)


def own_status(code):
    return subprocess.run(["sh", "-c", f"exit {code}"]).returncode


def exists(pid):
    return Path(f"/proc/{pid}").exists()


def test_what_jobs_leave_behind_is_reaped_and_no_status_is_stolen(tmp_path):
    queue = SkunkQueue("demo", f"sqlite:///{tmp_path}/runs.db")
    leave, status, die = (queue.event(f) for f in (leave_a_process, own_status, os._exit))

    with PoolProcess(tmp_path, queue.url, "default", prelude=SUBREAPER) as pool:
        left = leave.fire_many([()] * 3).wait(LIMIT)
        until(lambda: not any(map(exists, left)), message="orphans are still there")
        assert [status.fire(code).wait(LIMIT) for code in (0, 5)] == [0, 5]
        run = die.fire(7)
        until(lambda: run.state == "failed")
        assert run.error.count("exit code 7") == 3
        assert pool.stop() == 0
    assert "own children ended with [3, 3]" in pool.log()
