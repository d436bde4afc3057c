"""Jobs that are no plain functions of a module, fired from the tests by reference."""

import functools

from skunkqueue import SkunkQueue

queue = SkunkQueue("methods", "memory://methods")


class Report:
    """A class whose methods are jobs."""

    def __init__(self, title):
        self.title = title

    def __eq__(self, other):
        return isinstance(other, Report) and other.title == self.title

    def __hash__(self):
        return hash(self.title)

    @queue.event
    def build(self, pages, *, bold=False):
        return f"{self.title}: {pages}{'!' if bold else ''}"

    @queue.event(timeout=5)
    async def build_async(self, pages):
        return f"{self.title}: {pages}"

    @queue.event
    @classmethod
    def of_class(cls, pages):
        return f"{cls.__name__}: {pages}"

    @queue.event
    @staticmethod
    def static(pages):
        return f"static: {pages}"

    @staticmethod
    @queue.event
    def static_outside(pages):
        return f"static: {pages}"

    @classmethod
    @queue.event
    def of_class_outside(cls, pages):
        return f"{cls.__name__}: {pages}"

    @queue.event
    @functools.lru_cache
    def cached(self, pages):
        return f"{self.title}: {pages}"

    class Inner:
        def __eq__(self, other):
            return isinstance(other, Report.Inner)

        __hash__ = None

        @queue.event
        def build(self, pages):
            return f"inner: {pages}"

    def plain(self, pages):
        return f"{self.title}: {pages}"

    @classmethod
    def plain_of_class(cls, pages):
        return f"{cls.__name__}: {pages}"

    @staticmethod
    def plain_static(pages):
        return f"static: {pages}"

    def __call__(self, pages):
        return f"called {self.title}: {pages}"


class Longer(Report):
    pass


class Fixed(Report):
    """One of its methods is a job that is found by its name: by reference, so that its object stays where it is."""

    def send(self, pages):
        return f"{self.title}: {pages} by {id(self) == id(fixed)}"


fixed = Fixed("fixed")
Fixed.send = queue.event(fixed.send)
