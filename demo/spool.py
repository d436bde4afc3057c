"""Jobs dropped as files into a folder, and processed as they come: python demo/spool.py, Ctrl-C to stop.

While it runs, drop more: echo '{"type": "email", "rcpt": "you@example.com"}' > /tmp/skunk-jobs/in/mine
"""

from skunkqueue.spool import Hermes, drop


class Download:
    def run(self, task):
        print("Downloading page:", task["url"])


def send_email(task):
    print("Email for:", task["rcpt"])


if __name__ == "__main__":
    hermes = Hermes("/tmp/skunk-jobs")  # noqa: S108 - a demo
    hermes.register({"email": send_email, "download": Download})
    drop("/tmp/skunk-jobs", {"type": "email", "rcpt": "test@example.com"})  # noqa: S108
    drop("/tmp/skunk-jobs", {"type": "download", "url": "https://example.com/"})  # noqa: S108
    hermes.start()
