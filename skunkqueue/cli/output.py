"""What commands print: tables for people, one JSON document for programs."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from skunkqueue.cli.jsonable import jsonable
from skunkqueue.printable import printable, printable_lines

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

STYLES: Final[Mapping[str, str]] = {
    "scheduled": "yellow",
    "running": "cyan",
    "succeeded": "green",
    "failed": "red",
    "cancelled": "dim",
}

WIDTHS: Final[Mapping[str, int]] = {"JOB": 16, "RESULT": 12, "CALL": 24, "DOING": 12, "ERROR": 20, "WHERE": 16}
"""Columns that are cut where there is no room for all, each with the characters that it keeps."""
SPARE: Final = ("HOST", "POOL", "PID", "FIRST")
NARROW: Final = 100

ENDLESS: Final = 100_000
"""The width of piped output: nothing in it is cut or wrapped."""


class Unwritten(Exception):
    """The output cannot be written to stdout. Nothing more is written to it."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"the output cannot be written: {error.strerror or error}")
        self.reader_left: bool = error.errno == errno.EPIPE


def write(text: str, *, err: bool = False) -> None:
    """Write to stdout, or to stderr. Raises Unwritten for stdout only; for stderr, a failure is ignored."""
    try:
        click.echo(text, nl=False, err=err)
    except OSError as error:
        abandon(sys.stderr if err else sys.stdout)
        if not err:
            raise Unwritten(error) from error


def abandon(stream: Any) -> None:
    """Discard what is left in the stream, and what is still written to it: a flush must not raise again."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # it is not a file of the system
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


@contextlib.contextmanager
def as_far_as_possible() -> Iterator[None]:
    """For output about work that is done. If it cannot be written, stderr says so; the command does not fail."""
    try:
        yield
    except Unwritten as error:
        if not error.reader_left:
            complain(str(error))


def print_json(document: Any) -> None:
    """One document."""
    write(json.dumps(jsonable(document), indent=2) + "\n")


def print_json_rows(rows: Iterable[Mapping[str, Any]]) -> None:
    """One document, a list with a line for each row. It is written as the rows come, and closed even if they raise."""
    opening = "["
    try:
        for row in rows:
            write(opening + json.dumps(jsonable(row)))
            opening = ",\n "
    except Unwritten:
        raise
    except Exception:
        if opening != "[":
            write("]\n")
        raise
    write("[]\n" if opening == "[" else "]\n")


def is_wide() -> bool:
    """Whether a table may have all its columns: on a wide terminal, or where the output goes elsewhere."""
    from rich.console import Console

    return not sys.stdout.isatty() or Console().width >= NARROW


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table. Piped, it is complete; on a narrow terminal some columns are left out, and long ones are cut."""
    print_rich(table(columns, rows, is_wide=is_wide()))


def print_rich(what: RenderableType) -> None:
    """Print what rich can render: in full where it does not go to a terminal."""
    from rich.console import Console

    is_terminal = sys.stdout.isatty()
    told = io.StringIO()  # not stdout itself: rich ends the program if it cannot write
    width = None if is_terminal else ENDLESS
    Console(file=told, width=width, force_terminal=is_terminal or None, highlight=False).print(what)
    write(told.getvalue())


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, is_wide: bool = True) -> Table:
    """A table for rich."""
    from rich.table import Table

    shown = [place for place, name in enumerate(columns) if is_wide or name not in SPARE]
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for place in shown:
        least = WIDTHS.get(columns[place])
        made.add_column(columns[place], no_wrap=least is None, min_width=least)
    for row in rows:
        made.add_row(*(_cell(row[place]) for place in shown))
    return made


def _cell(value: str) -> Text:
    from rich.text import Text

    return Text(printable(value), style=STYLES.get(value, ""), no_wrap=True, overflow="ellipsis")


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print names and values, a line each; more lines of one value are aligned below its first."""
    shown = [(name, value) for name, value in facts if value]
    width = max(len(name) for name, _ in shown)
    for name, value in shown:
        first, *others = printable_lines(value)
        write(f"{click.style(name.ljust(width), bold=True)}  {first}\n")
        for line in others:
            write(f"{'':{width}}  {line}\n")


def say(sentence: str, *, err: bool = False) -> None:
    """Print a line on stdout, or stderr. What is in a store was written by others: control characters are escaped."""
    write(printable(sentence) + "\n", err=err)


def complain(sentence: str) -> None:
    """Print on stderr what could not be done."""
    say(f"Error: {sentence}", err=True)
