"""A worker by pygearman: HOST:PORT. "upper" answers in capitals, "broken" fails."""

import sys

import gearman


def broken(worker, job):
    raise ValueError("this one fails")


class Worker(gearman.GearmanWorker):
    def on_job_exception(self, current_job, exc_info):
        self.send_job_failure(current_job)
        return False


worker = Worker([sys.argv[1]])
worker.register_task(b"upper", lambda worker, job: job.data.upper())
worker.register_task(b"broken", broken)
worker.work()
