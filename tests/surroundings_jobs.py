"""Functions that change the folder, umask, timers and signal handlers of their process, and one that tells of them."""

import os
import signal
import tempfile
import threading
import time

moved = threading.Event()


def how_it_is():
    mask = os.umask(0o077)
    os.umask(mask)
    names = ("SIGTERM", "SIGINT", "SIGHUP", "SIGURG", "SIGALRM", "SIGUSR1", "SIGCHLD", "SIGPIPE")
    handlers = {name: getattr(signal.getsignal(getattr(signal, name)), "__name__", "none") for name in names}
    return os.getcwd(), mask, handlers, signal.getitimer(signal.ITIMER_REAL)[0]


def go_elsewhere():
    os.chdir("/")


def go_elsewhere_by_descriptor():
    fd = os.open("/", os.O_RDONLY)
    try:
        os.fchdir(fd)
    finally:
        os.close(fd)


def go_to_what_is_gone():
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)


def mask_all():
    os.umask(0o777)


def handle_signals():
    for name in ("SIGTERM", "SIGINT", "SIGURG", "SIGUSR1", "SIGCHLD"):
        signal.signal(getattr(signal, name), lambda *_: None)


def ignore_signals():
    for name in ("SIGHUP", "SIGURG", "SIGCHLD"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)


def leave_a_timer():
    signal.setitimer(signal.ITIMER_REAL, 1.0)


def leave_an_alarm():
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.alarm(1)


async def handle_signals_async():
    handle_signals()
    go_elsewhere()


def behind_python():
    import ctypes

    ctypes.CDLL(None).chdir(b"/")
    ctypes.CDLL(None).umask(0o777)


OFFENCES = [
    go_elsewhere, go_elsewhere_by_descriptor, go_to_what_is_gone, mask_all, handle_signals, ignore_signals,
    leave_a_timer, leave_an_alarm, handle_signals_async, behind_python,
]  # fmt: skip


def where():
    return os.getcwd()


def sleep_long():
    time.sleep(60)
