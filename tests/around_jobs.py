"""A queue with hooks, for workers that import it."""

from __future__ import annotations

import os

from skunkqueue import JobMixin, SkunkQueue, current_run

queue = SkunkQueue("demo")


def note(line):
    with open(os.environ["MARKS"] + "/notes", "a") as file:
        file.write(line + "\n")


@queue.lifespan
def resources():
    note(f"opened in {os.getpid()}")
    yield {"db": f"db of {os.getpid()}"}
    note(f"closed in {os.getpid()}")


@queue.around
def noted(run):
    note(f"{run.job} {run.attempt} {run.headers.get('trace')} begins")
    try:
        yield
    except ValueError as error:
        note(f"{run.job} {run.attempt} raised {error}")
        raise
    note(f"{run.job} {run.attempt} ends")


@queue.job(name="db", retries=1, backoff=0)
def db(fail=False):
    if fail:
        raise ValueError("no")
    return current_run().state["db"]


@queue.job(name="adb")
async def adb():
    return current_run().state["db"]


class Counted(JobMixin):
    queue = queue

    def work(self, what):
        return f"{what} with {current_run().state['db']}"


class CountedAsync(JobMixin):
    queue = queue

    async def work(self, what):
        return f"{what} with {current_run().state['db']}"
