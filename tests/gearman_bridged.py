"""Jobs of a queue that a bridge registers at a Gearman server."""

from __future__ import annotations

import os
import time
from pathlib import Path

from skunkqueue import SkunkQueue, current_run

queue = SkunkQueue("bridged")
elsewhere = SkunkQueue("elsewhere")


@queue.event
def add(a, b=10):
    return a + b


@queue.event
def fail():
    raise ValueError("no good")


@queue.event
def slow(seconds):
    with Path(os.environ["MARKS"], "slow").open("a") as file:
        file.write("x")
    time.sleep(seconds)
    return "slow"


@queue.event
def steps():
    with Path(os.environ["MARKS"], "steps").open("a") as file:
        file.write("x")
    current_run().progress(0.25, "1/4")
    while not Path(os.environ["MARKS"], "go-on").exists():
        time.sleep(0.01)
    return "there"


@elsewhere.event
def other():
    return "never"
