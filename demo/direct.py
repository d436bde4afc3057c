"""Fire a job and read its result. Run direct_worker.py in another terminal, before this or after it."""

from skunkqueue import SkunkQueue
from skunkqueue.persistence.sqlite import default_cfg

queue = SkunkQueue("demo", **default_cfg)


@queue.event(routes=["foo"])
def add(first, second):
    return first + second


add.fire(4, 5)
print("fired; waiting for a worker on the route foo")
add.last.wait(60)
print("result", add.result)
print("state", add.state)
