"""A job that leaves one byte per start, fired by many at once; and the process that fires it."""

import os
import sys

from skunkqueue import SkunkQueue

queue = SkunkQueue("demo")
_trace = None


@queue.event(routes=["foo"])
def trace(number):
    """Append the number to this process's own file: a record of 8 bytes, whole or not there."""
    global _trace
    if _trace is None:
        _trace = os.open(
            os.path.join(os.environ["MARKS"], f"trace-{os.getpid()}"), os.O_WRONLY | os.O_CREAT | os.O_APPEND
        )
    os.write(_trace, number.to_bytes(8, "little"))
    return number


def produce(first, count):
    """Fire so many: half one by one, half many at once."""
    numbers = list(range(first, first + count))
    half = count // 2
    for number in numbers[:half]:
        trace.fire(number)
    trace.fire_many([(number,) for number in numbers[half:]])


if __name__ == "__main__":
    import many_jobs  # the module, not the script: so that the job travels by its name

    many_jobs.produce(int(sys.argv[1]), int(sys.argv[2]))
