"""The same worker in processes, which are replaced when they stop: python demo/gearman_runner.py [HOST:PORT]."""

import sys

from gearman_worker import MyWorker

from skunkqueue.gearman import WorkRunner

if __name__ == "__main__":
    worker = WorkRunner([MyWorker], hosts=sys.argv[1:] or ["localhost:4730"])
    worker.start(threads=2)
