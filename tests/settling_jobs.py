"""A module that sets a signal handler and the umask when it is imported, as some do; with a job. Only for workers."""

import os
import signal

from skunkqueue import SkunkQueue

queue = SkunkQueue("demo", os.environ["SKUNKQUEUE_URL"])

os.umask(0o027)
signal.signal(signal.SIGUSR1, lambda *_: None)


@queue.event
def own():
    mask = os.umask(0o077)
    os.umask(mask)
    return mask, callable(signal.getsignal(signal.SIGUSR1))
