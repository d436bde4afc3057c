"""What commands print: tables for people, one JSON document for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from skunkqueue.printable import printable, printable_lines

if TYPE_CHECKING:
    from rich.text import Text

STYLES: Final[Mapping[str, str]] = {
    "scheduled": "yellow",
    "running": "cyan",
    "succeeded": "green",
    "failed": "red",
    "cancelled": "dim",
}

LONG: Final = ("JOB", "RESULT", "RUNNING")
SPARE: Final = ("ATTEMPTS", "QUEUE", "HOST")
NARROW: Final = 100

ENDLESS: Final = 100_000
"""The width of what is piped: nothing in it is cut or wrapped."""


def print_json(document: Any) -> None:
    """One document."""
    click.echo(json.dumps(document, indent=2))


def print_json_rows(rows: Iterable[Mapping[str, Any]]) -> None:
    """One document, a list with a line for each row; written as the rows come."""
    opening = "["
    for row in rows:
        click.echo(f"{opening}{json.dumps(row)}", nl=False)
        opening = ",\n "
    click.echo("[]" if opening == "[" else "]")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table. What is piped is whole; on a narrow terminal some columns are left out, and long ones are cut."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else ENDLESS, highlight=False)
    shown = [place for place, name in enumerate(columns) if console.width >= NARROW or name not in SPARE]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for place in shown:
        table.add_column(columns[place], no_wrap=columns[place] not in LONG)
    for row in rows:
        table.add_row(*(_cell(row[place]) for place in shown))
    console.print(table)


def _cell(value: str) -> Text:
    from rich.text import Text

    return Text(printable(value), style=STYLES.get(value, ""), no_wrap=True, overflow="ellipsis")


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Names and what they are, a line each; more lines of the same stand below each other."""
    shown = [(name, value) for name, value in facts if value]
    width = max(len(name) for name, _ in shown)
    for name, value in shown:
        first, *others = printable_lines(value)
        click.echo(f"{click.style(name.ljust(width), bold=True)}  {first}")
        for line in others:
            click.echo(f"{'':{width}}  {line}")


def say(sentence: str, *, err: bool = False) -> None:
    """A line on stdout, or stderr. What is in a store was written by others, so it is made fit for a terminal."""
    click.echo(printable(sentence), err=err)


def complain(sentence: str) -> None:
    """Say on stderr what could not be done."""
    say(f"Error: {sentence}", err=True)
