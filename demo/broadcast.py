"""Fire a job that every worker alive gets. Run broadcast_worker.py in another terminal first."""

import os

from skunkqueue import SkunkQueue
from skunkqueue.persistence.sqlite import default_cfg

queue = SkunkQueue("demo", queue_type="broadcast", **default_cfg)


@queue.event(routes=["news"])
def hear(news):
    print("heard:", news)
    return os.getpid()


runs = hear.fire("skunks have queues")
print(len(runs), "workers are alive")
print("heard by the processes", runs.wait(60))
