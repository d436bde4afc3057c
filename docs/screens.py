"""Write what skunq shows into the pages: python docs/screens.py

A page says which command it shows, in a comment before a block of text: ``<!-- screen: skunq runs -q shop -->``. All of
them show one queue, whose runs are fired and executed here, in a process of its own that is handed a clock and a source
of random numbers: so ages, times and ids are the same each time. ``python docs/screens.py tell COMMAND...`` prints what
these commands show, as JSON.
"""

import io
import json
import linecache
import os
import random
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
SCREEN = re.compile(r"<!-- screen: (?P<command>skunq [^\n]*) -->\n```text\n(?P<text>.*?)```$", re.DOTALL | re.MULTILINE)
START = 1_796_117_400.0  # 2026-12-01 10:10:00
URL = "memory://screens"
POOL = "web1-4711-5e1a"


class Clock:
    """The time of this process: it goes on only where somebody sleeps, and a little where somebody looks."""

    def __init__(self) -> None:
        self.now = START

    def time(self, *_: object) -> float:
        self.now += 2e-6
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def hand_to_all(self) -> None:
        """Before skunkqueue is imported, which takes these functions by name."""
        for name in ("time", "monotonic", "perf_counter", "clock_gettime"):
            setattr(time, name, self.time)
        time.sleep = self.sleep


def fixed() -> Clock:
    """Make this process the same each time: its time, its random numbers, its name."""
    clock = Clock()
    clock.hand_to_all()
    socket.gethostname, os.getpid = (lambda: "web1"), (lambda: 4711)
    os.urandom = random.Random(22).randbytes  # noqa: S311 - no secret
    os.environ |= {"TZ": "UTC", "TERM": "dumb", "COLUMNS": "80", "SKUNKQUEUE_KEY": "of the screens"}
    time.tzset()
    return clock


JOBS = """\
import time

from skunkqueue import SkunkQueue

queue = SkunkQueue("shop", "memory://screens")


@queue.job(name="shop:send", retries=1, backoff=1)
def send(user, html=False):
    time.sleep(0.04)
    if user == "bad":
        raise ValueError(f"no such user {user}")
    return len(user)


@queue.job(name="shop:resize", routes="pictures")
def resize(picture):
    time.sleep(3.1)
    return f"small {picture}"


@queue.job(name="shop:pay")
def pay(order):
    time.sleep(0.2)
    raise ConnectionError("the bank does not answer")
"""


def jobs() -> dict[str, Any]:
    """The jobs, as if they lay in a file that is the same on every machine."""
    path = "/srv/shop/shop.py"
    linecache.cache[path] = (len(JOBS), None, JOBS.splitlines(keepends=True), path)
    made: dict[str, Any] = {"__name__": "shop"}
    exec(compile(JOBS, path, "exec"), made)  # noqa: S102 - what stands above
    return made


def fill(clock: Clock) -> None:
    """A shop in the middle of its day: what has ended, what fails, what runs and what waits."""
    from skunkqueue.testing import drain
    from skunkqueue.worker.pool import pool

    pool.pool_name = lambda: POOL
    shop = jobs()
    queue, send, resize, pay = (shop[name] for name in ("queue", "send", "resize", "pay"))

    def work(seconds: float) -> None:
        drain(queue)
        clock.sleep(seconds)

    pay.fire(1201)
    work(2400)
    pay.fire(1207)
    work(260)
    send.fire("bad", html=True)
    work(2)
    work(30)
    resize.fire("cat.png")
    send.fire("ann", html=True)
    work(12)
    resize.fire_many([("dog.png",), ("fox.png",)])
    send.fire_at("1h", "eve")
    hold(queue)
    clock.sleep(5)


def hold(queue: Any) -> None:
    """A worker that is at its work, and one that has nothing to do."""
    from skunkqueue.envelope import Want
    from skunkqueue.ids import new_token

    store, now = queue.store, queue.clock.now()
    store.claim([Want("shop", ("pictures",), f"{POOL}.pictures.1", new_token(), 1)], now=now, until=now + 60)
    for pid, route, doing in ((4713, "default", []), (4714, "pictures", [["shop:resize", now]])):
        about = {"name": f"{route}.1", "queue": "shop", "routes": [route], "host": "web1", "pid": pid, "runs": 3}
        about |= {"pool": POOL, "doing": doing, "running": []}
        store.beat(f"{POOL}.{route}.1", json.dumps(about), until=now + 60)


class Terminal(io.StringIO):
    """Where a command prints as it does on a terminal of 80 columns without colours."""

    def isatty(self) -> bool:
        return True


def tell(commands: list[str]) -> dict[str, str]:
    """What these commands show."""
    fill(fixed())
    from skunkqueue import SkunkQueue
    from skunkqueue.cli.commands import run

    failed = {r.job: r.id for r in SkunkQueue("shop", URL).runs(state="failed")}
    shown = {}
    for command in commands:
        words = command.replace("ID", failed["shop:send"][-8:]).split()[1:]
        before, sys.stdout = sys.stdout, Terminal()
        try:
            run([words[0], "--url", URL, *words[1:]])
            text = re.sub(r"\x1b\[[\d;]*m", "", sys.stdout.getvalue())
            shown[command] = "\n".join(line.rstrip() for line in text.strip().splitlines()) + "\n"
        finally:
            sys.stdout = before
    return shown


def told(commands: list[str]) -> dict[str, str]:
    """The same, from a process of its own."""
    call = [sys.executable, __file__, "tell", *commands]
    return json.loads(subprocess.run(call, check=True, capture_output=True, text=True).stdout)


def pages() -> dict[Path, str]:
    """Each page with screens, as it has to be."""
    texts = {page: page.read_text() for page in sorted(DOCS.glob("*.md")) if "<!-- screen: " in page.read_text()}
    shown = told(sorted({found["command"] for text in texts.values() for found in SCREEN.finditer(text)}))

    def drawn(found: re.Match[str]) -> str:
        return f"<!-- screen: {found['command']} -->\n```text\n{shown[found['command']]}```"

    return {page: SCREEN.sub(drawn, text) for page, text in texts.items()}


if __name__ == "__main__":
    if sys.argv[1:2] == ["tell"]:
        print(json.dumps(tell(sys.argv[2:])))
    else:
        for page, text in pages().items():
            page.write_text(text)
