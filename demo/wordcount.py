"""Count the words of Python's own library with a pool of workers, and once more without; both must agree."""

import os
import sys
import tempfile
import time
from pathlib import Path

from rich.progress import track

from skunkqueue import SkunkQueue, WorkerPool

folder = tempfile.TemporaryDirectory()
queue = SkunkQueue("wordcount", os.environ.get("SKUNKQUEUE_URL") or f"sqlite:///{folder.name}/wordcount.db")


@queue.event(routes=["words"])
def count(path):
    text = Path(path).read_bytes()
    return text.count(b"\n"), len(text.split())


def total(counts):
    return tuple(map(sum, zip(*counts, strict=True)))


library = Path(os.__file__).parent
paths = [str(path) for path in library.rglob("*.py") if "site-packages" not in path.parts]
workers = ["words"] * (os.cpu_count() or 2)

began = time.perf_counter()
with open(f"{folder.name}/log", "w") as log, WorkerPool(queue, workers, log=log):
    runs = count.fire_many([(path,) for path in paths])
    counted = total(run.wait(60) for run in track(runs, f"{len(runs)} files, {len(workers)} workers"))
print(f"workers: {counted[0]:,} lines, {counted[1]:,} words in {time.perf_counter() - began:.2f} s")

began = time.perf_counter()
serial = total(map(count, paths))
print(f"serial:  {serial[0]:,} lines, {serial[1]:,} words in {time.perf_counter() - began:.2f} s")

queue.close()
print("they agree" if counted == serial else "they differ")
sys.exit(counted != serial)
