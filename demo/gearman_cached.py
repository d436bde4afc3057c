"""A worker whose answers are kept for a day: python demo/gearman_cached.py [HOST:PORT [CACHE]].

CACHE is where: mongodb://localhost:27017/ by default; redis://..., sqlite:///... or memory:// will do as well.
"""

import sys
import time

from skunkqueue.cache import cacheBuilder
from skunkqueue.gearman import BaseWorker

cachewrap = cacheBuilder(host=sys.argv[2] if len(sys.argv) > 2 else "mongodb://localhost:27017/")


class MyWorker(BaseWorker):
    name = "myworker"

    @cachewrap("unique_name", max_days_age=1)
    def task_echo(self, text, double=False):
        "Echoes the text"
        print(f"working on {text}", flush=True)
        time.sleep(0.1)
        if double:
            return text + text
        return text


if __name__ == "__main__":
    MyWorker(hosts=sys.argv[1:2] or ["localhost:4730"]).start()
