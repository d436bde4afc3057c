"""skunq, the command line: runs the command asked for, and turns errors into a sentence and an exit code."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from skunkqueue.cli.ctrl_c import ctrl_c
from skunkqueue.errors import SkunkError, WrongCall
from skunkqueue.printable import printable

FAILED: Final = 1
WRONG_CALL: Final = 2
INTERRUPTED: Final = 130


def main(args: Sequence[str] | None = None) -> NoReturn:
    """The program ``skunq``. Exits with 0, 1 (it could not be done), 2 (a wrong call) or 130 (Ctrl-C)."""
    ctrl_c.catch()
    _open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # replaced by something that is no text file
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        code = _run(sys.argv[1:] if args is None else args)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except (SkunkError, OSError) as error:
        code = WRONG_CALL if isinstance(error, WrongCall) else FAILED
        with contextlib.suppress(OSError):
            print(f"Error: {printable(str(error))}", file=sys.stderr)  # noqa: T201
    _flush(sys.stdout)
    _flush(sys.stderr)
    sys.exit(code)


def _run(words: Sequence[str]) -> int:
    from skunkqueue.cli.plain import read

    options = read(words)
    if options is None:
        from skunkqueue.cli.commands import run

        ctrl_c.obey()
        return run(words)
    from skunkqueue.cli.serve import serve

    serve(**options)
    return 0


def _open_standard_streams() -> None:
    """Open /dev/null in place of each that was closed: else the next file to be opened would take its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def _flush(stream: Any) -> None:
    """Flush. Python would do so at exit, and change the exit code if it failed."""
    try:
        stream.flush()
    except OSError:
        from skunkqueue.cli.output import abandon

        abandon(stream)
