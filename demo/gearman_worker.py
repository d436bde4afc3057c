"""A Gearman worker in this process: python demo/gearman_worker.py [HOST:PORT], Ctrl-C to stop.

In another terminal: python demo/gearman_client.py
"""

import sys

from skunkqueue.gearman import BaseWorker, JsonWorker


class MyWorker(BaseWorker):
    name = "myworker"  # replaces "task" in the names of the functions
    work_class = JsonWorker  # the default; others for other serializations

    def task_echo(self, text, double=False):  # each method whose name begins with task_ is exported
        "Echoes the text"
        if double:
            return text + text
        return text  # what is returned must be something that JSON knows

    def task_add(self, a, b):
        "Adds A and B together"
        return a + b


if __name__ == "__main__":
    worker = MyWorker(hosts=sys.argv[1:] or ["localhost:4730"])
    worker.start()
