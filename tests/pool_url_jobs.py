"""A job that tells what it and what it starts can see of the store's password."""

import multiprocessing
import os
import pickle
import subprocess
import sys

from skunkqueue import SkunkQueue

queue = SkunkQueue("demo")

PRINTS = "import os; print({name: value for name, value in os.environ.items() if 'POOL_URL' in name})"
USES_MEMORY = "from skunkqueue import SkunkQueue; print(SkunkQueue('t', 'memory://').count())"


def _fire(pickled, answer):
    job_queue = pickle.loads(pickled)
    answer.put((job_queue.full_url, job_queue.count() is not None))


@queue.event(routes=["foo"])
def look(pickled):
    """The URL of a queue that came by pickle: here, in a forked process, and what a program sees."""
    here = pickle.loads(pickled)
    context = multiprocessing.get_context("fork")
    answer = context.SimpleQueue()
    child = context.Process(target=_fire, args=(pickled, answer))
    child.start()
    forked = answer.get()
    child.join()
    seen = subprocess.run([sys.executable, "-c", PRINTS], capture_output=True, text=True, check=True).stdout
    memory = subprocess.run([sys.executable, "-c", USES_MEMORY], capture_output=True, text=True, check=True).stdout
    mine = {name: value for name, value in os.environ.items() if "POOL_URL" in name}
    return (here.full_url, here.count() is not None), forked, seen, memory, mine
