"""Text of others on its way to a log or a terminal: what these would obey, or cannot show, is written out."""

from __future__ import annotations


def printable(text: str) -> str:
    """One line of it: control characters, line ends, escape sequences and characters that turn the direction of writing
    stand there as Python writes them (``\\x1b``)."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text)


def printable_lines(text: str) -> list[str]:
    """Its lines, each as ``printable`` gives it, but with its tabs."""
    return ["\t".join(map(printable, line.split("\t"))) for line in text.split("\n")]
