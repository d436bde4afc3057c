"""Six workers fetch pages, one of them is killed with SIGKILL in the middle of its work, and nothing is lost."""

import hashlib
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.progress import track

from skunkqueue import SkunkQueue, WorkerPool

WORKERS, PAGES = 6, 240

folder = tempfile.TemporaryDirectory()
starts = f"{folder.name}/starts"
queue = SkunkQueue("pages", os.environ.get("SKUNKQUEUE_URL") or f"sqlite:///{folder.name}/pages.db")


@queue.event(routes=["pages"])
def fetch(page):
    with open(starts, "ab") as file:
        file.write(b".")  # so that it can be counted how many runs were started twice
    began = time.perf_counter()
    time.sleep(0.15)  # the wait for an answer
    digest = hashlib.sha256(b"%d" % page).hexdigest()
    return digest, os.getpid(), time.perf_counter() - began


screen = Console(highlight=False)
began = time.perf_counter()
with open(f"{folder.name}/log", "w") as log, WorkerPool(queue, ["pages"] * WORKERS, log=log):
    runs = fetch.fire_many([(page,) for page in range(PAGES)])
    for number, run in enumerate(track(runs, f"{PAGES} jobs, {WORKERS} workers", console=screen)):
        _, worker, _ = run.wait(60)
        if number == PAGES // 2:
            time.sleep(0.05)  # by now it has started its next run
            os.kill(worker, signal.SIGKILL)
            screen.print(f"killed worker process {worker} with SIGKILL, in the middle of its work")
took = time.perf_counter() - began

right = [run.result[0] == hashlib.sha256(b"%d" % page).hexdigest() for page, run in enumerate(runs)]
lost = PAGES - sum(right)
again = len(Path(starts).read_bytes()) - PAGES
work = sum(run.result[2] for run in runs)
queue.close()

screen.print(f"runs that were started again, as their worker had died: {again}")
screen.print(f"{PAGES} fired, {sum(right)} succeeded, {lost} lost: {'some were lost' if lost else 'nothing lost'}")
screen.print(f"{work:.0f} s of work done in {took:.0f} s")
sys.exit(lost != 0)
