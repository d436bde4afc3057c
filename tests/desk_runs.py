"""A store with a few runs of each kind, and skunq called on it within the test's own process."""

from __future__ import annotations

import contextlib
import io
import json

from skunkqueue import cli
from skunkqueue.testing import drain


class Desk:
    """``desk("runs", "--json")`` gives stdout; ``complaint`` is stderr, ``code`` the exit code."""

    def __init__(self, url):
        self.url = url

    def __call__(self, *words, code=0):
        said, complaint = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complaint):
            try:
                cli.main([words[0], "--url", self.url, *words[1:]])
            except SystemExit as left:
                self.code = left.code
        self.complaint = complaint.getvalue()
        assert self.code == code, self.complaint + said.getvalue()
        return said.getvalue()

    def json(self, *words, code=0):
        return json.loads(self(*words, "--json", code=code))

    def rows(self, *words):
        """The cells of each line of a table, by column, as far as they have no two spaces in them."""
        head, *lines = self(*words).splitlines()
        starts = [at for at in range(len(head)) if head[at] != " " and (at == 0 or head[at - 1] == " ")]
        ends = [*starts[1:], None]
        names = head.split()
        return [
            dict(zip(names, (line[a:b].strip() for a, b in zip(starts, ends, strict=True)), strict=True))
            for line in lines
        ]


def fill(queue):
    """One run of each kind, by what became of it."""

    @queue.job(name="shop:send", retries=1, backoff=0)
    def send(user, html=False):
        if user == "bad":
            raise ValueError(f"no such user {user}")
        return len(user)

    @queue.job(name="shop:count", routes="slow", priority="high")
    def count(things):
        return len(things)

    runs = {"well": send.fire("ann", html=True), "badly": send.fire("bad")}
    drain(queue)
    runs |= {"pickled": count.fire([object]), "queued": send.fire("bob"), "later": send.fire_at("1h", "eve")}
    return runs
