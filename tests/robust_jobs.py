"""Jobs that behave badly, fired by reference at real pools; each leaves a line in $MARKS/<name> when it starts."""

import asyncio
import contextlib
import ctypes
import importlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time

from skunkqueue import Fail, Retry, SkunkQueue, current_run

queue = SkunkQueue("demo")


def leave_mark(name):
    """One line per start, so that a test can count how often something really ran."""
    with open(os.path.join(os.environ["MARKS"], str(name)), "a") as file:
        file.write(f"{os.getpid()} {time.time()}\n")


@queue.event(routes=["foo"])
def add(first, second):
    return first + second


@queue.event(routes=["foo"])
def fire_on(route):
    return add.options(routes=[route]).fire(1, 2).id


@queue.event(routes=["foo"])
def marked(name, seconds=0.0, value=None):
    leave_mark(name)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)
    leave_mark(f"{name}.done")
    return value


@queue.event(routes=["foo"])
def die(name, how="SIGKILL"):
    leave_mark(name)
    if how == "segv":
        ctypes.string_at(0)
    if how == "exit":
        os._exit(3)
    if how == "pool":
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(30)
    os.kill(os.getpid(), getattr(signal, how))
    time.sleep(30)


@queue.event(routes=["foo"])
def die_once(name):
    leave_mark(name)
    with open(os.path.join(os.environ["MARKS"], str(name))) as file:
        if len(file.readlines()) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


@queue.event(routes=["foo"])
def stuck_in_c(name):
    """Counts in C without coming back to the interpreter, whatever signals come, and holds the GIL."""
    leave_mark(name)
    return sum(itertools.repeat(1, 10**15))


@queue.event(routes=["foo"])
def swallow(name):
    leave_mark(name)
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(30)


@queue.event(routes=["foo"])
def unsendable():
    return threading.Lock()


@queue.event(routes=["foo"])
def unsendable_error():
    class Odd(Exception):
        def __init__(self):
            super().__init__("odd one")
            self.lock = threading.Lock()

        def __reduce__(self):
            raise TypeError("no")

    raise Odd


@queue.event(routes=["foo"])
def error_without_words():
    class Silent(Exception):
        def __str__(self):
            raise ValueError("no words")

    raise Silent


@queue.event(routes=["foo"])
def sys_exit():
    sys.exit(3)


@queue.event(routes=["foo"])
async def async_sys_exit():
    sys.exit(4)


@queue.event(routes=["foo"])
def close_stdout():
    sys.stdout.close()
    os.close(1)
    return "closed"


@queue.event(routes=["foo"])
def start_threads():
    for _ in range(3):
        threading.Thread(target=time.sleep, args=(60,)).start()
    return "started"


@queue.event(routes=["foo"])
def leave_children(name):
    child = subprocess.Popen(["sleep", "300"])
    leave_mark(f"{name}.{child.pid}")
    return child.pid


@queue.event(routes=["foo"])
def fork_and_hold():
    pid = os.fork()
    if pid == 0:
        time.sleep(20)
        os._exit(0)
    return pid


@queue.event(routes=["foo"])
def fork_and_return():
    return os.fork() and "parent"


@queue.event(routes=["foo"])
def fork_hold_and_die(name):
    leave_mark(name)
    if os.fork() == 0:
        time.sleep(20)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)


@queue.event(routes=["foo"])
def base_exception():
    raise GeneratorExit("base")


@queue.event(routes=["foo"])
def too_deep(n=0):
    return too_deep.function(n + 1) + 1


@queue.event(routes=["foo"])
def huge():
    return b"x" * 100_000_000


@queue.event(routes=["foo"])
def retry_later(name):
    leave_mark(name)
    with open(os.path.join(os.environ["MARKS"], str(name))) as file:
        if len(file.readlines()) < 3:
            raise Retry(after=0.05)
    return "at last"


@queue.event(routes=["foo"], retries=5)
def give_up():
    raise Fail("for good")


@queue.event(routes=["foo"], retries=2, backoff=0.02)
def flaky(name, times):
    leave_mark(name)
    with open(os.path.join(os.environ["MARKS"], str(name))) as file:
        if len(file.readlines()) <= times:
            raise ValueError("not yet")
    return current_run().attempt


@queue.event(routes=["foo"])
async def async_sleep(name, seconds):
    leave_mark(name)
    await asyncio.sleep(seconds)
    return name


@queue.event(routes=["foo"])
async def async_own_id():
    return current_run().id


@queue.event(routes=["foo"])
def sleep_long(name, seconds=30.0):
    leave_mark(name)
    time.sleep(seconds)
    leave_mark(f"{name}.done")


@queue.event(routes=["foo"])
def progress(name):
    current_run().progress(0.4, "note")
    leave_mark(name)
    time.sleep(1.0)
    return current_run().id


@queue.event(routes=["foo"])
def fire_more(n):
    return [run.wait(20) for run in add.options(routes=["bar"]).fire_many([(i, i) for i in range(n)])]


class NotAJob:
    """Something to point at."""


@queue.event(routes=["foo"])
async def async_hog(name, seconds):
    """Holds up its event loop."""
    leave_mark(name)
    time.sleep(seconds)


@queue.event(routes=["foo"])
def imports_late(module):
    return importlib.import_module(module).whole
