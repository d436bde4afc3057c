"""Jobs that are classes, in a module that workers import."""

from __future__ import annotations

import os

from skunkqueue import JobMixin


class Total(JobMixin):
    routes = ["foo"]
    retries = 2

    def work(self, *numbers):
        return sum(numbers)


class Note(JobMixin):
    name = "note"
    keep = 7200

    def __init__(self, author):
        self.author = author

    def work(self, text):
        return f"{self.author}: {text}"


class Where(JobMixin):
    async def work(self):
        return os.getpid()
