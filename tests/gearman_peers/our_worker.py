"""A worker of ours: HOST:PORT. "upper" answers in capitals, "broken" fails."""

import sys
from typing import Any

from skunkqueue.gearman import GearmanJob, GearmanWorker


class Worker(GearmanWorker):
    """Fails without saying why: with gearmand 1.1.20 the C client waits for ever for a job that ended by exception."""

    def on_job_exception(self, current_job: GearmanJob, error: Exception) -> bool:
        self.send_job_failure(current_job)
        return False


def broken(worker: GearmanWorker, job: GearmanJob) -> Any:
    raise ValueError("this one fails")


worker = Worker([sys.argv[1]])
worker.register_task("upper", lambda worker, job: job.data.upper())
worker.register_task("broken", broken)
worker.work()
