"""RQ's worker that does not fork, with its jobs imported once: its fastest."""

import os

from redis import Redis
from rq import Queue, SimpleWorker
from rq.logutils import setup_loghandlers

from bench.peers import rq_jobs

assert rq_jobs

if __name__ == "__main__":
    connection = Redis.from_url(os.environ["BENCH_URL"])
    setup_loghandlers("INFO")
    SimpleWorker([Queue("bench", connection=connection)], connection=connection).work()
