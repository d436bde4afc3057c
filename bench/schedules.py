"""What schedules cost: the processor that an idle pool uses while it keeps a thousand of them.

``python -m bench.schedules [URL] [SCHEDULES] [SECONDS] [INTERVAL]``: ``INTERVAL`` is theirs in seconds, an hour unless
given. Prints shares of one core: of a pool with no schedules first, then of the same with them.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time

from skunkqueue import SkunkQueue, WorkerPool


def share(queue: SkunkQueue, seconds: float) -> float:
    """The share of a core that an idle pool in this process uses, its worker thread included."""
    with WorkerPool(queue, "default", in_process=True, log=open(os.devnull, "w")):
        time.sleep(3)
        began, used = time.monotonic(), time.process_time()
        time.sleep(seconds)
        return (time.process_time() - used) / (time.monotonic() - began)


def main() -> None:
    folder = tempfile.mkdtemp()
    url = sys.argv[1] if len(sys.argv) > 1 else f"sqlite:///{folder}/runs.db"
    number, seconds, interval = (int(w) for w in (*sys.argv[2:], *("1000", "60", "3600")[len(sys.argv[2:]) :]))
    with SkunkQueue("bench-schedules", url) as queue:
        job = queue.event(len, name="count")
        print(f"{queue.url}: without schedules {share(queue, seconds):.2%} of a core")
        began = time.monotonic()
        for n in range(number):
            queue.schedule(f"schedule {n}", job.args("abc"), every=interval)
        made = time.monotonic() - began
        with_them = share(queue, seconds)
        print(f"with {number:,} every {interval} s {with_them:.2%} of a core; made in {made:.1f} s")
        for schedule in queue.schedules():
            queue.unschedule(schedule.name)


if __name__ == "__main__":
    main()
