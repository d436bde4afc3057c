"""Figures as people read them: one table of ratios with what is required beside each, on the screen and in a file."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Figure(NamedTuple):
    """One measured figure; ``least`` or ``most`` is what is required of it, if anything is."""

    what: str
    value: float
    basis: str = ""
    """What it is made of, with the absolute figures."""
    least: float | None = None
    most: float | None = None
    unit: str = ""

    @property
    def met(self) -> bool:
        return (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)

    @property
    def required(self) -> str:
        if self.least is not None:
            return f">= {self.least:g}{self.unit}"
        return "" if self.most is None else f"<= {self.most:g}{self.unit}"

    @property
    def verdict(self) -> str:
        if not self.required:
            return ""
        return "met" if self.met else "NOT met"

    def cells(self) -> list[str]:
        return [self.what, f"{self.value:.3g}{self.unit}", self.required, self.verdict, self.basis]


HEAD = ["what", "measured", "required", "verdict", "made of"]


@dataclass
class Part:
    """What one part of the benchmark gives: its figures, how they came about, and tables of everything seen."""

    name: str
    figures: list[Figure]
    conditions: list[str]
    seen: list[tuple[str, list[str], list[list[str]]]]
    """Further tables: a title, a head, rows."""

    def text(self) -> str:
        """For the screen."""
        return f"\n{self.name}\n\n{columns(HEAD, [each.cells() for each in self.figures])}\n"

    def markdown(self) -> str:
        """For a file."""
        lines = [f"## {self.name}", "", *[f"- {line}" for line in self.conditions], ""]
        lines += [*rows(HEAD, [each.cells() for each in self.figures]), ""]
        for title, head, body in self.seen:
            lines += [f"### {title}", "", *rows(head, body), ""]
        return "\n".join(lines)


def columns(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A table for the screen."""
    table = [list(head), *map(list, body)]
    widths = [max(len(row[n]) for row in table) for n in range(len(head))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table)


def rows(head: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    """A table in Markdown."""
    return [_row(head), _row(["---"] * len(head)), *map(_row, body)]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def median(figures: Sequence[float]) -> float:
    return statistics.median(figures)


def late(figures: Sequence[float]) -> float:
    """The 99th percentile."""
    ordered = sorted(figures)
    return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the rounds' ratios, so that a slow moment of the machine hits both sides of each."""
    return median([a / b for a, b in zip(ours, theirs, strict=True)])


def spread(figures: Sequence[float], form: str = "{:,.0f}") -> str:
    """The median, and the least and the most."""
    if len(figures) == 1:
        return form.format(figures[0])
    return f"{form.format(median(figures))} ({form.format(min(figures))} to {form.format(max(figures))})"
