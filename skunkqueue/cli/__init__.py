"""skunq, the command line: reads what is asked for, and turns what goes wrong into a sentence and an exit code."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

from skunkqueue.errors import SkunkError, WrongCall
from skunkqueue.printable import printable

FAILED: Final = 1
WRONG_CALL: Final = 2
INTERRUPTED: Final = 130


def main(args: Sequence[str] | None = None) -> NoReturn:
    """The program ``skunq``. Exits with 0, 1 (it could not be done), 2 (a wrong call) or 130 (Ctrl-C)."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # replaced by something that is no text file
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        code = _run(sys.argv[1:] if args is None else args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        _abandon_stdout()
        code = FAILED
    except (SkunkError, OSError) as error:
        print(f"Error: {printable(str(error))}", file=sys.stderr)  # noqa: T201
        code = WRONG_CALL if isinstance(error, WrongCall) else FAILED
    sys.exit(code)


def _run(words: Sequence[str]) -> int:
    from skunkqueue.cli.plain import read

    options = read(words)
    if options is None:
        from skunkqueue.cli.commands import run

        return run(words)
    from skunkqueue.cli.serve import serve

    serve(**options)
    return 0


def _abandon_stdout() -> None:
    """The reader of stdout is gone: flushing the buffer at exit must not raise again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
