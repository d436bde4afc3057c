"""Text of others on its way to a log, a terminal or a sentence: what these would obey or cannot show is written out."""

from __future__ import annotations

from typing import Final

MOST_SAID: Final = 200
"""Characters of a value in a sentence."""


def printable(text: str) -> str:
    """One line of it: control characters, line ends, escape sequences and characters that turn the direction of writing
    stand there as Python writes them (``\\x1b``)."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text)


def printable_lines(text: str) -> list[str]:
    """Its lines, each as ``printable`` gives it, but with its tabs."""
    return ["\t".join(map(printable, line.split("\t"))) for line in text.split("\n")]


def said(value: object) -> str:
    """A value as Python writes it, for a sentence: shortened, and of one that cannot be written its type."""
    try:
        text = repr(value)
    except Exception:  # an int of thousands of digits, or a __repr__ of somebody's own
        return f"<{type(value).__name__}>"
    return text if len(text) <= MOST_SAID else text[: MOST_SAID - 1] + "…"
