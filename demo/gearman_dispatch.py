"""Other ways to find the command for a task, and another encoding: python demo/gearman_dispatch.py [HOST:PORT]."""

import sys

from skunkqueue.gearman import DataEncoder, GearmanCMD, GearmanCMDQueue, GearmanWorker


class Queue(GearmanCMDQueue):
    def dispatch(self, task):
        """The name of the method to call: here in capitals; None ignores the task."""
        command = task.get("command", "default")
        if "ignore" in command:
            return None
        return command.upper()

    def REVERSE(self, gcmd, task):  # noqa: N802
        return "olleH"

    def DEFAULT(self, gcmd, task):  # noqa: N802
        return None

    def STOP(self, gcmd, task):  # noqa: N802
        print("Stopping gcmd...")
        gcmd.stop()


class CustomDataEncoder(DataEncoder):
    """Lines of "key: value" instead of JSON."""

    @classmethod
    def encode(cls, value):
        return f"answer: {value}".encode()

    @classmethod
    def decode(cls, data):
        return dict(line.split(": ", 1) for line in data.decode().splitlines())


class CustomWorker(GearmanWorker):
    data_encoder = CustomDataEncoder


class CustomGCMD(GearmanCMD):
    worker = CustomWorker


if __name__ == "__main__":
    worker = CustomGCMD(sys.argv[1:] or ["localhost:4730"])
    worker.register_task("queue", Queue())
    worker.run()
