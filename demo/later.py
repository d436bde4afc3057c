"""Fire a job that is to run in three seconds. Run direct_worker.py in another terminal."""

from datetime import datetime, timedelta

from skunkqueue import SkunkQueue
from skunkqueue.persistence.sqlite import default_cfg

queue = SkunkQueue("demo", **default_cfg)


@queue.event(routes=["foo"])
def remind(what):
    return f"{datetime.now():%H:%M:%S} time for {what}"


run = remind.fire_at(timedelta(seconds=3), "tea")
print(f"{datetime.now():%H:%M:%S} {run.state}")
print(run.wait(60))
