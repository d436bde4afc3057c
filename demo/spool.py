"""Jobs dropped as files into a folder, and processed as they come: python demo/spool.py [FOLDER], Ctrl-C to stop.

While it runs, drop more: echo '{"type": "email", "rcpt": "you@example.com"}' > /tmp/skunk-jobs/in/mine
"""

import sys

from skunkqueue.spool import Hermes, drop


class Download:
    def run(self, task):
        print(f"Downloading page: {task['url']}")


def send_email(task):
    print(f"Email for: {task['rcpt']}")


if __name__ == "__main__":
    folder = sys.argv[1] if len(sys.argv) > 1 else "/tmp/skunk-jobs"  # noqa: S108 - a demo
    hermes = Hermes(folder)
    hermes.register({"email": send_email, "download": Download})
    drop(folder, {"type": "email", "rcpt": "test@example.com"})
    drop(folder, {"type": "download", "url": "https://example.com/"})
    hermes.start()
