"""RQ's workers import functions by name; these touch no connection."""

from bench.peers import marks


def noop(number):
    marks.count()
    return number


def stamp():
    marks.started(marks.now())
