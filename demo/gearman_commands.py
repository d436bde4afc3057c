"""Command queues: python demo/gearman_commands.py [HOST:PORT].

In another terminal: gearman -f queue '{"command": "reverse", "message": "Hello"}'
"""

import sys

from skunkqueue.gearman import GearmanCMD, GearmanCMDQueue


class Queue(GearmanCMDQueue):
    """Each public method is a command: of {"command": "reverse", "message": "Hello"} this is the task."""

    def reverse(self, gcmd, task):
        """Returned data is sent back to the client: "olleH"."""
        message = task.get("message", None)
        if message is None:
            raise AttributeError("Missing 'message' key")
        return message[::-1]

    def default(self, gcmd, task):
        """Called when there is no method for the command."""
        return

    def stop(self, gcmd, task):
        """The worker can be controlled from within a command."""
        print("Stopping gcmd...")
        gcmd.stop()


def main():
    worker = GearmanCMD(sys.argv[1:] or ["localhost:4730"])
    worker.register_task("queue", Queue())
    try:
        worker.run()
    except KeyboardInterrupt:  # Ctrl-C
        worker.stop()
    except Exception as e:  # what a command raised
        print(f"{type(e).__name__}: {e}")
        worker.stop()


if __name__ == "__main__":
    main()
